//! Carrying out what the tree decision wants of the own store (sync.md 4.7).
//!
//! Somebody else may have renamed or deleted meanwhile. That is a conflict: it is told, the rest goes on, and the next run sees
//! to it. A mailbox that the store can never have is left out. Anything else that fails ends the run.

use crate::mail::{Class, Error, MailboxGuid, MailboxName, Result, Store, Timestamp};

use super::types::TreeAction;

/// What became of the actions.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Why this run is not perfect (exit code 2), in Dovecot's words.
    pub desync: Vec<String>,
    /// Mailboxes that the store cannot have.
    pub impossible: Vec<Error>,
}

/// Carries out the actions in their order.
///
/// # Errors
/// The first failure that is no mere conflict, with its place. Later actions were not tried.
pub fn execute(store: &mut dyn Store, actions: &[TreeAction]) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for action in actions {
        match carry_out(store, action) {
            Err(e) if e.class() == Class::NotPossible && matches!(action, TreeAction::Create { .. }) => {
                outcome.impossible.push(e)
            }
            result => outcome.desync.extend(result?),
        }
    }
    Ok(outcome)
}

/// The time of an action: the user's, or now.
fn when(time: Timestamp) -> Timestamp {
    if time.0 == 0 { Timestamp::now() } else { time }
}

/// A conflict, nothing, or a failure.
fn carry_out(store: &mut dyn Store, action: &TreeAction) -> Result<Option<String>> {
    let shown = |name: &MailboxName| name.to_string();
    match action {
        TreeAction::Rename { from, to, time } => sorted(store.rename(from, to, when(*time)), &shown(from), "mailbox_rename"),
        TreeAction::Delete { name, guid, time } => {
            let conflict = |why: &str| Ok(Some(format!("Mailbox {} GUID {guid} deletion conflict: {why}", shown(name))));
            match store.delete(name, *guid, when(*time)) {
                Ok(()) => Ok(None),
                Err(e) if e.class() == Class::NotFound => conflict("Mailbox was already deleted"),
                Err(e) if e.class() == Class::NotPossible => conflict("Mailbox is no longer selectable"),
                Err(e) => Err(e.at(format!("Mailbox {} sync: mailbox_delete failed", shown(name)))),
            }
        }
        TreeAction::DeleteDir { name, time } => match store.delete_dir(name, when(*time)) {
            Ok(()) => Ok(None),
            // It went with the last mailbox below it.
            Err(e) if e.class() == Class::NotFound => Ok(None),
            Err(e) if e.class() == Class::Exists => {
                Ok(Some(format!("Mailbox {} mailbox_list_delete_dir conflict: {e}", shown(name))))
            }
            Err(e) => Err(e.at("Mailbox sync: mailbox_list_delete_dir failed")),
        },
        TreeAction::CreateDir { name } => match store.create_dir(name) {
            Err(e) if e.class() != Class::Exists => Err(e.at(format!("Mailbox {} sync: mailbox_create failed", shown(name)))),
            _ => Ok(None),
        },
        TreeAction::Create { name, guid, uidvalidity } => match store.create(name, *guid, *uidvalidity) {
            Ok(()) => Ok(None),
            Err(e) if e.class() == Class::Exists => {
                let present = present_guid(store, name)?;
                let other = (present != *guid).then(|| format!("Mailbox {} mailbox_create conflict: {e}", shown(name)));
                Ok(other)
            }
            Err(e) => Err(e.at(format!("Can't create mailbox {}", shown(name)))),
        },
        TreeAction::SetGuid { name, from, to } => set_guid(store, name, *from, *to, &shown(name)),
        TreeAction::Subscribe { name, time } => {
            sorted(store.set_subscribed(name, true, when(*time)), &shown(name), "mailbox_set_subscribed")
        }
        TreeAction::Unsubscribe { name, time } => {
            sorted(store.set_subscribed(name, false, when(*time)), &shown(name), "mailbox_set_subscribed")
        }
    }
}

fn sorted(result: Result<()>, name: &str, function: &str) -> Result<Option<String>> {
    match result {
        Ok(()) => Ok(None),
        Err(e) if matches!(e.class(), Class::Exists | Class::NotFound) => {
            Ok(Some(format!("Mailbox {name} {function} conflict: {e}")))
        }
        Err(e) => Err(e.at(format!("Mailbox {name} sync: {function} failed"))),
    }
}

fn present_guid(store: &mut dyn Store, name: &MailboxName) -> Result<MailboxGuid> {
    let mut mailbox = store.open(name)?;
    mailbox.refresh()?;
    Ok(mailbox.status().identity.guid)
}

fn set_guid(
    store: &mut dyn Store,
    name: &MailboxName,
    from: MailboxGuid,
    to: MailboxGuid,
    shown: &str,
) -> Result<Option<String>> {
    let place = || format!("Couldn't update mailbox {shown} metadata");
    let mut mailbox = match store.open(name) {
        Ok(mailbox) => mailbox,
        Err(e) if e.class() == Class::NotFound => {
            return Ok(Some(format!("Mailbox {shown} GUID {from} was lost")));
        }
        Err(e) => return Err(e.at(place())),
    };
    mailbox.refresh().map_err(|e| e.at(place()))?;
    let present = mailbox.status().identity;
    if present.guid == to {
        return Ok(None);
    }
    if present.guid != from {
        return Ok(Some(format!("Mailbox {shown} GUID {from} was lost")));
    }
    mailbox.set_identity(to, present.uidvalidity).map_err(|e| e.at(place()))?;
    drop(mailbox);
    // It may have taken its directory along (`LAYOUT=index`).
    if present_guid(store, name).map_err(|e| e.at(place()))? != to {
        return Err(Error::new(Class::Temporary, format!("Backend didn't update mailbox {shown} GUID")));
    }
    Ok(None)
}
