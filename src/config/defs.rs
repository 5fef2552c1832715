//! The settings of Dovecot 2.3: names, types, defaults (cli-config.md 11.4; names and defaults as `doveconf -d` of
//! 2.3.19.1 prints them).

use super::value::Kind::{self, Bool, Enum, MilliTime, Port, Size, Str, Time, UInt};

/// A setting.
#[derive(Debug)]
pub(crate) struct Def {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) default: &'static str,
}

const fn def(name: &'static str, kind: Kind, default: &'static str) -> Def {
    Def { name, kind, default }
}

/// Settings outside of all sections whose values are checked. Sorted by name.
#[rustfmt::skip]
pub(crate) const ROOT: &[Def] = &[
    def("auth_default_realm", Str, ""),
    def("auth_socket_path", Str, "auth-userdb"),
    def("auth_username_chars", Str, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ01234567890.-_@"),
    def("auth_username_format", Str, "%Lu"),
    def("auth_username_translation", Str, ""),
    def("base_dir", Str, "/run/dovecot"),
    def("debug_log_path", Str, ""),
    def("default_internal_group", Str, "dovecot"),
    def("default_internal_user", Str, "dovecot"),
    def("dotlock_use_excl", Bool, "yes"),
    def("doveadm_allowed_commands", Str, ""),
    def("doveadm_api_key", Str, ""),
    def("doveadm_http_rawlog_dir", Str, ""),
    def("doveadm_password", Str, ""),
    def("doveadm_port", Port, "0"),
    def("doveadm_socket_path", Str, "doveadm-server"),
    def("doveadm_ssl", Enum(&["no", "ssl", "starttls"]), "no"),
    def("doveadm_username", Str, "doveadm"),
    def("doveadm_worker_count", UInt, "0"),
    def("dsync_alt_char", Str, "_"),
    def("dsync_commit_msgs_interval", UInt, "100"),
    def("dsync_features", Str, ""),
    def("dsync_hashed_headers", Str, "Date Message-ID"),
    def("dsync_remote_cmd", Str, "ssh -l%{login} %{host} doveadm dsync-server -u%u -U"),
    def("first_valid_gid", UInt, "1"),
    def("first_valid_uid", UInt, "500"),
    def("hostname", Str, ""),
    def("imapc_cmd_timeout", Time, "5 mins"),
    def("imapc_connection_retry_count", UInt, "1"),
    def("imapc_connection_retry_interval", MilliTime, "1 secs"),
    def("imapc_features", Str, ""),
    def("imapc_host", Str, ""),
    def("imapc_list_prefix", Str, ""),
    def("imapc_master_user", Str, ""),
    def("imapc_max_idle_time", Time, "29 mins"),
    def("imapc_max_line_length", Size, "0"),
    def("imapc_password", Str, ""),
    def("imapc_port", Port, "143"),
    def("imapc_rawlog_dir", Str, ""),
    def("imapc_sasl_mechanisms", Str, ""),
    def("imapc_ssl", Enum(&["no", "imaps", "starttls"]), "no"),
    def("imapc_ssl_verify", Bool, "yes"),
    def("imapc_user", Str, ""),
    def("import_environment", Str, "TZ CORE_OUTOFMEM CORE_ERROR LISTEN_PID LISTEN_FDS NOTIFY_SOCKET"),
    def("info_log_path", Str, ""),
    def("instance_name", Str, "dovecot"),
    def("last_valid_gid", UInt, "0"),
    def("last_valid_uid", UInt, "0"),
    def("libexec_dir", Str, "/usr/lib/dovecot"),
    def("lock_method", Enum(&["fcntl", "flock", "dotlock"]), "fcntl"),
    def("log_core_filter", Str, ""),
    def("log_debug", Str, ""),
    def("log_path", Str, "syslog"),
    def("log_timestamp", Str, "%b %d %H:%M:%S "),
    def("mail_access_groups", Str, ""),
    def("mail_always_cache_fields", Str, ""),
    def("mail_attachment_detection_options", Str, ""),
    def("mail_attachment_dir", Str, ""),
    def("mail_attachment_fs", Str, "sis posix"),
    def("mail_attachment_hash", Str, "%{sha1}"),
    def("mail_attachment_min_size", Size, "128 k"),
    def("mail_attribute_dict", Str, ""),
    def("mail_cache_fields", Str, "flags"),
    def("mail_cache_max_size", Size, "1 G"),
    def("mail_cache_min_mail_count", UInt, "0"),
    def("mail_cache_purge_continued_percentage", UInt, "200"),
    def("mail_cache_purge_delete_percentage", UInt, "20"),
    def("mail_cache_purge_header_continue_count", UInt, "4"),
    def("mail_cache_purge_min_size", Size, "32 k"),
    def("mail_cache_record_max_size", Size, "64 k"),
    def("mail_cache_unaccessed_field_drop", Time, "30 days"),
    def("mail_chroot", Str, ""),
    def("mail_debug", Bool, "no"),
    def("mail_fsync", Enum(&["optimized", "never", "always"]), "optimized"),
    def("mail_full_filesystem_access", Bool, "no"),
    def("mail_gid", Str, ""),
    def("mail_home", Str, ""),
    def("mail_index_log2_max_age", Time, "2 days"),
    def("mail_index_log_rotate_max_size", Size, "1 M"),
    def("mail_index_log_rotate_min_age", Time, "5 mins"),
    def("mail_index_log_rotate_min_size", Size, "32 k"),
    def("mail_index_rewrite_max_log_bytes", Size, "128 k"),
    def("mail_index_rewrite_min_log_bytes", Size, "8 k"),
    def("mail_location", Str, ""),
    def("mail_log_prefix", Str, "%s(%u)<%{pid}><%{session}>: "),
    def("mail_max_keyword_length", UInt, "50"),
    def("mail_max_lock_timeout", Time, "0"),
    def("mail_max_userip_connections", UInt, "10"),
    def("mail_never_cache_fields", Str, "imap.envelope"),
    def("mail_nfs_index", Bool, "no"),
    def("mail_nfs_storage", Bool, "no"),
    def("mail_plugin_dir", Str, "/usr/lib/dovecot/modules"),
    def("mail_plugins", Str, ""),
    def("mail_prefetch_count", UInt, "0"),
    def("mail_privileged_group", Str, ""),
    def("mail_save_crlf", Bool, "no"),
    def("mail_server_admin", Str, ""),
    def("mail_server_comment", Str, ""),
    def("mail_shared_explicit_inbox", Bool, "no"),
    def("mail_sort_max_read_count", UInt, "0"),
    def("mail_temp_dir", Str, "/tmp"),
    def("mail_temp_scan_interval", Time, "1 weeks"),
    def("mail_uid", Str, ""),
    def("mail_vsize_bg_after_count", UInt, "0"),
    def("mailbox_idle_check_interval", Time, "30 secs"),
    def("mailbox_list_index", Bool, "yes"),
    def("mailbox_list_index_include_inbox", Bool, "no"),
    def("mailbox_list_index_very_dirty_syncs", Bool, "no"),
    def("maildir_broken_filename_sizes", Bool, "no"),
    def("maildir_copy_with_hardlinks", Bool, "yes"),
    def("maildir_empty_new", Bool, "no"),
    def("maildir_stat_dirs", Bool, "no"),
    def("maildir_very_dirty_syncs", Bool, "no"),
    def("mbox_dirty_syncs", Bool, "yes"),
    def("mbox_dotlock_change_timeout", Time, "2 mins"),
    def("mbox_lazy_writes", Bool, "yes"),
    def("mbox_lock_timeout", Time, "5 mins"),
    def("mbox_md5", Str, "apop3d"),
    def("mbox_min_index_size", Size, "0"),
    def("mbox_read_locks", Str, "fcntl"),
    def("mbox_very_dirty_syncs", Bool, "no"),
    def("mbox_write_locks", Str, "fcntl dotlock"),
    def("mdbox_preallocate_space", Bool, "no"),
    def("mdbox_rotate_interval", Time, "0"),
    def("mdbox_rotate_size", Size, "10 M"),
    def("mmap_disable", Bool, "no"),
    def("pop3_deleted_flag", Str, ""),
    def("pop3_uidl_format", Str, "%08Xu%08Xv"),
    def("pop3c_features", Str, ""),
    def("pop3c_host", Str, ""),
    def("pop3c_master_user", Str, ""),
    def("pop3c_password", Str, ""),
    def("pop3c_port", Port, "110"),
    def("pop3c_quick_received_date", Bool, "no"),
    def("pop3c_rawlog_dir", Str, ""),
    def("pop3c_ssl", Enum(&["no", "pop3s", "starttls"]), "no"),
    def("pop3c_ssl_verify", Bool, "yes"),
    def("pop3c_user", Str, "%u"),
    def("postmaster_address", Str, "postmaster@%{if;%d;ne;;%d;%{hostname}}"),
    def("protocols", Str, ""),
    def("recipient_delimiter", Str, "+"),
    def("ssl", Enum(&["no", "yes", "required"]), "yes"),
    def("ssl_alt_cert", Str, ""),
    def("ssl_alt_key", Str, ""),
    def("ssl_ca", Str, ""),
    def("ssl_cert", Str, ""),
    def("ssl_cert_username_field", Str, "commonName"),
    def("ssl_cipher_list", Str, "ALL:!kRSA:!SRP:!kDHd:!DSS:!aNULL:!eNULL:!EXPORT:!DES:!3DES:!MD5:!PSK:!RC4:!ADH:!LOW@STRENGTH"),
    def("ssl_cipher_suites", Str, ""),
    def("ssl_client_ca_dir", Str, ""),
    def("ssl_client_ca_file", Str, ""),
    def("ssl_client_cert", Str, ""),
    def("ssl_client_key", Str, ""),
    def("ssl_client_require_valid_cert", Bool, "yes"),
    def("ssl_crypto_device", Str, ""),
    def("ssl_curve_list", Str, ""),
    def("ssl_dh", Str, ""),
    def("ssl_key", Str, ""),
    def("ssl_key_password", Str, ""),
    def("ssl_min_protocol", Str, "TLSv1.2"),
    def("ssl_options", Str, ""),
    def("ssl_prefer_server_ciphers", Bool, "no"),
    def("ssl_require_crl", Bool, "yes"),
    def("ssl_verify_client_cert", Bool, "no"),
    def("state_dir", Str, "/var/lib/dovecot"),
    def("stats_writer_socket_path", Str, "stats-writer"),
    def("syslog_facility", Str, "mail"),
    def("valid_chroot_dirs", Str, ""),
    def("verbose_proctitle", Bool, "no"),
];

/// Settings of a `namespace` section.
pub(crate) const NAMESPACE: &[Def] = &[
    def("alias_for", Str, ""),
    def("disabled", Bool, "no"),
    def("hidden", Bool, "no"),
    def("ignore_on_failure", Bool, "no"),
    def("inbox", Bool, "no"),
    def("list", Enum(&["yes", "no", "children"]), "yes"),
    def("location", Str, ""),
    def("name", Str, ""),
    def("order", UInt, "0"),
    def("prefix", Str, ""),
    def("separator", Str, ""),
    def("subscriptions", Bool, "yes"),
    def("type", Enum(&["private", "shared", "public"]), "private"),
];

/// Settings of a `mailbox` section.
pub(crate) const MAILBOX: &[Def] = &[
    def("auto", Enum(&["no", "create", "subscribe"]), "no"),
    def("autoexpunge", Time, "0"),
    def("autoexpunge_max_mails", UInt, "0"),
    def("comment", Str, ""),
    def("driver", Str, ""),
    def("name", Str, ""),
    def("special_use", Str, ""),
];

const RESULTS: &[&str] = &["return-ok", "return", "return-fail", "continue", "continue-ok", "continue-fail"];
const VERBOSE: &[&str] = &["default", "yes", "no"];
const SKIP: &[&str] = &["never", "found", "notfound", "authenticated", "unauthenticated"];

/// Settings of a `passdb` section.
pub(crate) const PASSDB: &[Def] = &[
    def("args", Str, ""),
    def("auth_verbose", Enum(VERBOSE), "default"),
    def("default_fields", Str, ""),
    def("deny", Bool, "no"),
    def("driver", Str, ""),
    def("master", Bool, "no"),
    def("mechanisms", Str, ""),
    def("name", Str, ""),
    def("override_fields", Str, ""),
    def("pass", Bool, "no"),
    def("result_failure", Enum(RESULTS), "continue"),
    def("result_internalfail", Enum(RESULTS), "continue"),
    def("result_success", Enum(RESULTS), "return-ok"),
    def("skip", Enum(SKIP), "never"),
    def("username_filter", Str, ""),
];

/// Settings of a `userdb` section.
pub(crate) const USERDB: &[Def] = &[
    def("args", Str, ""),
    def("auth_verbose", Enum(VERBOSE), "default"),
    def("default_fields", Str, ""),
    def("driver", Str, ""),
    def("name", Str, ""),
    def("override_fields", Str, ""),
    def("result_failure", Enum(RESULTS), "continue"),
    def("result_internalfail", Enum(RESULTS), "continue"),
    def("result_success", Enum(RESULTS), "return-ok"),
    def("skip", Enum(SKIP), "never"),
];

/// Other settings of 2.3.19.1 with their defaults. They are no concern of ours: their values are not checked, but
/// `$name` may ask for them.
#[rustfmt::skip]
const OTHERS: &[(&str, &str)] = &[
    ("auth_anonymous_username", "anonymous"),
    ("auth_cache_negative_ttl", "1 hours"),
    ("auth_cache_size", "0"),
    ("auth_cache_ttl", "1 hours"),
    ("auth_cache_verify_password_with_worker", "no"),
    ("auth_debug", "no"),
    ("auth_debug_passwords", "no"),
    ("auth_failure_delay", "2 secs"),
    ("auth_gssapi_hostname", ""),
    ("auth_krb5_keytab", ""),
    ("auth_master_user_separator", ""),
    ("auth_mechanisms", "plain"),
    ("auth_policy_check_after_auth", "yes"),
    ("auth_policy_check_before_auth", "yes"),
    ("auth_policy_hash_mech", "sha256"),
    ("auth_policy_hash_nonce", ""),
    ("auth_policy_hash_truncate", "12"),
    ("auth_policy_log_only", "no"),
    ("auth_policy_reject_on_fail", "no"),
    ("auth_policy_report_after_auth", "yes"),
    ("auth_policy_request_attributes", "login=%{requested_username} pwhash=%{hashed_password} remote=%{rip} device_id=%{client_id} protocol=%s session_id=%{session}"),
    ("auth_policy_server_api_header", ""),
    ("auth_policy_server_timeout_msecs", "2000"),
    ("auth_policy_server_url", ""),
    ("auth_proxy_self", ""),
    ("auth_realms", ""),
    ("auth_ssl_require_client_cert", "no"),
    ("auth_ssl_username_from_cert", "no"),
    ("auth_stats", "no"),
    ("auth_use_winbind", "no"),
    ("auth_verbose", "no"),
    ("auth_verbose_passwords", "no"),
    ("auth_winbind_helper_path", "/usr/bin/ntlm_auth"),
    ("auth_worker_max_count", "30"),
    ("config_cache_size", "1 M"),
    ("default_client_limit", "1000"),
    ("default_idle_kill", "1 mins"),
    ("default_login_user", "dovenull"),
    ("default_process_limit", "100"),
    ("default_vsz_limit", "256 M"),
    ("deliver_log_format", "msgid=%m: %$"),
    ("dict_db_config", ""),
    ("director_flush_socket", ""),
    ("director_mail_servers", ""),
    ("director_max_parallel_kicks", "100"),
    ("director_max_parallel_moves", "100"),
    ("director_output_buffer_size", "10 M"),
    ("director_ping_idle_timeout", "30 secs"),
    ("director_ping_max_timeout", "1 mins"),
    ("director_servers", ""),
    ("director_user_expire", "15 mins"),
    ("director_user_kick_delay", "2 secs"),
    ("director_username_hash", "%Lu"),
    ("disable_plaintext_auth", "yes"),
    ("haproxy_timeout", "3 secs"),
    ("haproxy_trusted_networks", ""),
    ("imap_capability", ""),
    ("imap_client_workarounds", ""),
    ("imap_fetch_failure", "disconnect-immediately"),
    ("imap_hibernate_timeout", "0"),
    ("imap_id_log", ""),
    ("imap_id_retain", "no"),
    ("imap_id_send", "name *"),
    ("imap_idle_notify_interval", "2 mins"),
    ("imap_literal_minus", "no"),
    ("imap_logout_format", "in=%i out=%o deleted=%{deleted} expunged=%{expunged} trashed=%{trashed} hdr_count=%{fetch_hdr_count} hdr_bytes=%{fetch_hdr_bytes} body_count=%{fetch_body_count} body_bytes=%{fetch_body_bytes}"),
    ("imap_max_line_length", "64 k"),
    ("imap_metadata", "no"),
    ("imap_urlauth_host", ""),
    ("imap_urlauth_logout_format", "in=%i out=%o"),
    ("imap_urlauth_port", "143"),
    ("lda_mailbox_autocreate", "no"),
    ("lda_mailbox_autosubscribe", "no"),
    ("lda_original_recipient_header", ""),
    ("listen", "*, ::"),
    ("lmtp_add_received_header", "yes"),
    ("lmtp_client_workarounds", ""),
    ("lmtp_hdr_delivery_address", "final"),
    ("lmtp_proxy", "no"),
    ("lmtp_proxy_rawlog_dir", ""),
    ("lmtp_rawlog_dir", ""),
    ("lmtp_rcpt_check_quota", "no"),
    ("lmtp_save_to_detail_mailbox", "no"),
    ("lmtp_user_concurrency_limit", "0"),
    ("lmtp_verbose_replies", "no"),
    ("login_access_sockets", ""),
    ("login_greeting", "Dovecot (Debian) ready."),
    ("login_log_format", "%$: %s"),
    ("login_log_format_elements", "user=<%u> method=%m rip=%r lip=%l mpid=%e %c session=<%{session}>"),
    ("login_plugin_dir", "/usr/lib/dovecot/modules/login"),
    ("login_plugins", ""),
    ("login_proxy_max_disconnect_delay", "0"),
    ("login_proxy_max_reconnects", "3"),
    ("login_proxy_notify_path", "proxy-notify"),
    ("login_proxy_rawlog_dir", ""),
    ("login_proxy_timeout", "30 secs"),
    ("login_source_ips", ""),
    ("login_trusted_networks", ""),
    ("master_user_separator", ""),
    ("old_stats_carbon_interval", "30 secs"),
    ("old_stats_carbon_name", ""),
    ("old_stats_carbon_server", ""),
    ("old_stats_command_min_time", "1 mins"),
    ("old_stats_domain_min_time", "12 hours"),
    ("old_stats_ip_min_time", "12 hours"),
    ("old_stats_memory_limit", "16 M"),
    ("old_stats_session_min_time", "15 mins"),
    ("old_stats_user_min_time", "1 hours"),
    ("pop3_client_workarounds", ""),
    ("pop3_delete_type", "default"),
    ("pop3_enable_last", "no"),
    ("pop3_fast_size_lookups", "no"),
    ("pop3_lock_session", "no"),
    ("pop3_logout_format", "top=%t/%p, retr=%r/%b, del=%d/%m, size=%s"),
    ("pop3_no_flag_updates", "no"),
    ("pop3_reuse_xuidl", "no"),
    ("pop3_save_uidl", "no"),
    ("pop3_uidl_duplicates", "allow"),
    ("process_shutdown_filter", ""),
    ("quota_full_tempfail", "no"),
    ("rawlog_dir", ""),
    ("rejection_reason", "Your message to <%t> was automatically rejected:%n%r"),
    ("rejection_subject", "Rejected: %s"),
    ("replication_dsync_parameters", "-d -N -l 30 -U"),
    ("replication_full_sync_interval", "1 days"),
    ("replication_max_conns", "10"),
    ("replicator_host", "replicator"),
    ("replicator_port", "0"),
    ("sendmail_path", "/usr/sbin/sendmail"),
    ("shutdown_clients", "yes"),
    ("stats_http_rawlog_dir", ""),
    ("submission_client_workarounds", ""),
    ("submission_host", ""),
    ("submission_logout_format", "in=%i out=%o"),
    ("submission_max_mail_size", "0"),
    ("submission_max_recipients", "0"),
    ("submission_relay_command_timeout", "5 mins"),
    ("submission_relay_connect_timeout", "30 secs"),
    ("submission_relay_host", ""),
    ("submission_relay_master_user", ""),
    ("submission_relay_max_idle_time", "29 mins"),
    ("submission_relay_password", ""),
    ("submission_relay_port", "25"),
    ("submission_relay_rawlog_dir", ""),
    ("submission_relay_ssl", "no"),
    ("submission_relay_ssl_verify", "yes"),
    ("submission_relay_trusted", "no"),
    ("submission_relay_user", ""),
    ("submission_ssl", "no"),
    ("submission_timeout", "30 secs"),
    ("verbose_ssl", "no"),
    ("version_ignore", "no"),
];

/// Settings of other versions from 2.2 on, of other services, and of plugins that add settings begin with these.
/// Dovecot rejects a name that it does not know. We know fewer names, so one of these families passes.
const FAMILIES: &[&str] = &[
    "auth_",
    "config_",
    "default_",
    "deliver_",
    "dict_",
    "director_",
    "fts_",
    "haproxy_",
    "imap_",
    "imapc_",
    "lda_",
    "lmtp_",
    "log_",
    "login_",
    "lua_",
    "mail_cache_compress_",
    "managesieve_",
    "master_",
    "old_stats_",
    "openmetrics_",
    "pop3_",
    "pop3c_",
    "process_",
    "quota_",
    "rawlog_",
    "replication_",
    "replicator_",
    "service_",
    "sieve_",
    "ssl_",
    "stats_",
    "submission_",
    "syslog_",
    "urlauth_",
    "verbose_",
];

/// Sections of other services: their content is skipped.
pub(crate) const SKIPPED_SECTIONS: &[&str] = &["dict", "event_exporter", "metric", "oldstats", "service"];

/// Its definition, if the setting outside of all sections is one that we check.
pub(crate) fn root(name: &str) -> Option<&'static Def> {
    ROOT.binary_search_by_key(&name, |d| d.name).ok().map(|i| &ROOT[i])
}

/// Its definition in a list.
pub(crate) fn find(list: &'static [Def], name: &str) -> Option<&'static Def> {
    list.iter().find(|d| d.name == name)
}

/// The default of a setting outside of all sections, ours or not.
pub(crate) fn default_of(name: &str) -> Option<&'static str> {
    root(name).map(|d| d.default).or_else(|| OTHERS.iter().find(|(n, _)| *n == name).map(|(_, v)| *v))
}

/// Dovecot, in some version or with some plugin, has such a setting.
pub(crate) fn is_foreign(name: &str) -> bool {
    root(name).is_none() && (OTHERS.iter().any(|(n, _)| *n == name) || FAMILIES.iter().any(|prefix| name.starts_with(prefix)))
}

/// The real name of a setting outside of all sections.
pub(crate) fn root_alias(name: &str) -> &str {
    match name {
        "mail" => "mail_location",
        "doveadm_proxy_port" => "doveadm_port",
        _ => name,
    }
}

/// The real name of a setting of a namespace.
pub(crate) fn namespace_alias(name: &str) -> &str {
    match name {
        "mail" | "mail_location" => "location",
        _ => name,
    }
}

/// Whether Dovecot looks at this setting only when it opens a user's mail: a wrong value from `-o` is an error of the
/// user then, not of the start (cli-config.md 9.4).
pub(crate) fn is_users(name: &str) -> bool {
    !["doveadm_", "dsync_", "ssl", "verbose_proctitle"].iter().any(|p| name.starts_with(p))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_defaults_are_of_their_type() {
        assert!(ROOT.is_sorted_by_key(|d| d.name));
        for d in [ROOT, NAMESPACE, MAILBOX, PASSDB, USERDB].into_iter().flatten() {
            assert_eq!(d.kind.check(d.default), Ok(()), "{}", d.name);
        }
    }
}
