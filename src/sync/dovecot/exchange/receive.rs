//! What comes in, the decision, and what is done about it.

use super::*;

impl Exchange<'_> {
    pub(super) fn take(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Headers => Err(Error::Unexpected { got: 'V', wanted: "an item" }.into()),
            Event::Item(item) => self.item(item),
            Event::Data(data) => {
                if matches!(self.incoming, Some(Incoming::Attribute(..))) {
                    self.collect(data.len(), "octets in attributes")?;
                }
                if let Some(Incoming::Attribute(_, spool) | Incoming::Mail(_, spool)) = &mut self.incoming {
                    spool.add(&data, &self.s.settings.temp_dir)?;
                }
                Ok(())
            }
            Event::DataEnd => match self.incoming.take() {
                Some(Incoming::Attribute(item, spool)) => {
                    let value = spool.finish().bytes(ATTRIBUTE)?;
                    self.attribute(*item, Some(value));
                    Ok(())
                }
                Some(Incoming::Mail(item, spool)) => self.mail(item, Some(spool)),
                None => Ok(()),
            },
        }
    }

    /// Something will be kept.
    fn collect(&mut self, weight: usize, what: &'static str) -> Result<()> {
        self.s.budget.take(weight).map_err(|_| Error::TooMuch(what).into())
    }

    pub(super) fn item(&mut self, item: Item) -> Result<()> {
        let weight = item.weight();
        match (self.receiving, item) {
            (Phase::Attributes, Item::Attribute(a)) => {
                self.collect(weight, "attributes")?;
                if a.stream {
                    self.incoming = Some(Incoming::Attribute(a, Spool::default()));
                } else {
                    let value = a.value.clone();
                    self.attribute(*a, value);
                }
            }
            (Phase::Attributes, Item::End) => {
                self.set_attributes();
                self.receiving = Phase::Changes;
            }
            (Phase::Changes, Item::Change(change)) => {
                self.collect(weight, "mail changes")?;
                self.their_change(change)?;
            }
            (Phase::Changes, Item::End) => {
                self.decide()?;
                self.receiving = if self.sends { Phase::Requests } else { Phase::Mails };
            }
            (Phase::Requests, Item::Request(request)) => self.request(&request)?,
            (Phase::Requests, Item::End) => {
                self.requested.sort_unstable();
                self.requested.dedup();
                self.receiving = if self.receives { Phase::Mails } else { Phase::State };
            }
            (Phase::Mails, Item::Mail(m)) => {
                if m.stream {
                    self.incoming = Some(Incoming::Mail(m, Spool::default()));
                } else {
                    self.mail(m, None)?;
                }
            }
            (Phase::Mails, Item::End) => self.receiving = Phase::State,
            (Phase::State, Item::State(state)) => {
                if state.guid != self.s.own.guid {
                    let value = state.guid.to_string();
                    return Err(Error::Value { kind: "mailbox_state", column: "mailbox_guid", value }.into());
                }
                self.their_state = Some(state);
                self.exposed = self.kept_and_readable();
                self.receiving = Phase::Done;
            }
            (_, Item::Close) => return Err(ConnError::Closed(self.s.conn.position()).into()),
            (phase, item) => {
                let wanted = match phase {
                    Phase::Attributes => "mailbox_attribute",
                    Phase::Changes => "mail_change",
                    Phase::Requests => "mail_request",
                    Phase::Mails => "mail",
                    Phase::State | Phase::Done => "mailbox_state",
                };
                return Err(Error::Unexpected { got: item.letter(), wanted }.into());
            }
        }
        Ok(())
    }

    pub(super) fn attribute(&mut self, item: AttributeItem, value: Option<Vec<u8>>) {
        let key = AttributeKey { private: item.private, key: String::from_utf8_lossy(&item.key).into_owned() };
        let value = value.filter(|_| !item.deleted);
        let attribute = Attribute { key, value, changed: timestamp(item.last_change) };
        self.their_attributes.push((attribute, item.modseq.map(ModSeq), item.deleted));
    }

    pub(super) fn set_attributes(&mut self) {
        let Some(own) = &self.attributes else { return };
        let theirs = std::mem::take(&mut self.their_attributes);
        // A stateful run tells only what has changed, and a Dovecot never asks for one to be removed that it does not have.
        let told: HashSet<&AttributeKey> = theirs.iter().map(|(a, ..)| &a.key).collect();
        let own = Attributes {
            present: own.present.iter().filter(|a| told.contains(&a.key)).cloned().collect(),
            changes: own.changes.iter().filter(|c| told.contains(&c.key)).cloned().collect(),
        };
        let mut peer = Attributes::default();
        for (attribute, modseq, removed) in &theirs {
            if let Some(modseq) = *modseq {
                peer.changes.push(AttributeChange { key: attribute.key.clone(), removed: *removed, modseq });
            } else if *removed {
                peer.changes.push(AttributeChange { key: attribute.key.clone(), removed: true, modseq: ModSeq(0) });
            }
            if attribute.value.is_some() {
                peer.present.push(attribute.clone());
            }
        }
        for attribute in attributes::to_change(&own, &peer, self.s.options.mode, self.s.options.mode.is_source(self.s.side)) {
            if let Err(e) = self.s.store.set_attribute(self.s.name, self.s.own.guid, &attribute) {
                tracing::error!("Mailbox {}: Failed to set attribute {}: {e}", self.s.name, attribute.key.key);
            }
        }
    }

    /// What would kill a Dovecot is refused politely (wire.md 9).
    pub(super) fn their_change(&mut self, change: Change) -> Result<()> {
        let bad = |column: &'static str, value: String| Error::Value { kind: "mail_change", column, value };
        if change.uid <= self.last_uid {
            return Err(bad("uid", change.uid.to_string()).into());
        }
        self.last_uid = change.uid;
        let common = self.last_common.is_some_and(|l| change.uid <= l.get());
        let fits = match change.kind {
            ChangeType::Save => !common,
            ChangeType::Flags => common,
            ChangeType::Expunge => true,
        };
        if !fits {
            return Err(bad("type", format!("{:?} for UID {}", change.kind, change.uid)).into());
        }
        if change.kind == ChangeType::Save && change.guid.is_none() {
            return Err(Error::MissingValue { kind: "mail_change", column: "guid" }.into());
        }
        self.their_changes.push(change);
        Ok(())
    }

    pub(super) fn decide(&mut self) -> Result<()> {
        let changes = std::mem::take(&mut self.their_changes);
        let saved = self.s.saved.map_or(ModSeq(0), |s| s.modseq);
        let mut changes_only = changes;
        if self.hold_changes {
            self.claim(&changes_only);
        }
        let theirs = Theirs::new(&self.own, &changes_only, self.peer_status, self.last_common, saved, &self.s.options.filter);
        changes_only.clear();
        if let Some(why) = theirs.mismatch {
            tracing::warn!(
                "Mailbox {} doesn't match previous state: {why} (dsync must be run again without the state)",
                self.s.name
            );
            self.ended.full_resync = true;
            return Ok(());
        }
        let known = self.own.known();
        let mut theirs = theirs;
        if matches!(self.s.options.mode, Mode::OneWay(_)) && self.own.hashes.is_none() {
            theirs.infer_synced(&known.facts);
        }
        let master = self.s.side == Side::Master;
        let (first, second) = if master { (&known, &theirs.known) } else { (&theirs.known, &known) };
        let outcome = match self.s.options.mode {
            Mode::TwoWay => {
                let careful = !self.s.options.filter.is_empty();
                let decision = decide::two_way(self.s.side, &known, &theirs.known, self.last_common, careful);
                self.copies = decision.copies;
                self.last_common_after = decision.last_common;
                self.expose(&decision.outcome);
                decision.outcome
            }
            Mode::OneWay(source) => {
                let missing = if self.s.unified { Missing::IfKnown } else { Missing::IfProved };
                let context = Context { last_common: self.last_common, missing };
                let common = merge::find_common(&first.facts, &second.facts, &context);
                let keys = |k: &decide::Known, new: &[usize]| new.iter().map(|&n| k.keys[n].clone()).collect::<Vec<_>>();
                let guids = (keys(first, &common.new_master), keys(second, &common.new_slave));
                let out = merge::one_way(&first.facts, &second.facts, &common, (&guids.0, &guids.1), source == Source::Master);
                self.last_common_after = out.uid_next.get() - 1;
                out
            }
            Mode::Backup(source) => {
                let out = merge::backup(&first.facts, &second.facts, source == Source::Master, &HashSet::new());
                self.last_common_after = out.uid_next.get() - 1;
                out
            }
        };
        self.import.rebuild = outcome.rebuild;
        self.ask(&outcome, &theirs);
        self.theirs = Some(theirs);
        self.outcome = Some(outcome);
        Ok(())
    }

    fn expose(&mut self, outcome: &Outcome) {
        let shared = outcome.mails.iter().filter(|m| self.peer_uid(m).is_some()).map(|m| m.uid).max();
        let is_exposed = |m: &&Merged| m.copied && self.peer_uid(m).is_none() && Some(m.uid) < shared;
        self.exposed = outcome.mails.iter().filter(is_exposed).filter_map(|m| self.own_uid(m)).collect();
        let moves = |m: &Merged| Some((self.own_uid(m).filter(|own| *own != m.uid)?, m.uid));
        self.moves = outcome.mails.iter().filter_map(moves).collect();
        self.beyond = outcome.uid_next;
        // What cannot be told today must not look expunged over there when it can be.
        let untold = |uid: &Uid| Some(*uid) > self.last_common && self.own.guids[self.own.index(*uid)].is_none();
        let stays = || {
            let stay = outcome.mails.iter().filter(|m| !m.copied && self.peer_uid(m).is_none());
            stay.filter_map(|m| self.own_uid(m))
        };
        (self.withheld, self.kept) =
            (stays().filter(untold).collect(), stays().filter(|&u| self.own.facts.never_had(u)).collect());
    }

    /// Mails that the other side has and that are not here for no fault of its users are told as if they were, so that it
    /// keeps them.
    pub(super) fn claim(&mut self, changes: &[Change]) {
        for change in changes.iter().filter(|c| c.kind == ChangeType::Save) {
            let Some(uid) = Uid::new(change.uid) else { continue };
            let unreadable = self.own.facts.item(uid).is_some() && self.own.guids[self.own.index(uid)].is_none();
            if unreadable || self.own.facts.item(uid).is_none() && self.own.facts.never_had(uid) {
                let claim = Change { add_flags: 0, remove_flags: 0, ..change.clone() };
                self.own.claims.insert(uid, claim);
            }
        }
    }

    pub(super) fn own_uid(&self, m: &Merged) -> Option<Uid> {
        own_uid(self.s.side, m)
    }

    pub(super) fn peer_uid(&self, m: &Merged) -> Option<Uid> {
        if self.s.side == Side::Master { m.slave } else { m.master }
    }

    /// What has to be asked for, and what else will be staged.
    pub(super) fn ask(&mut self, outcome: &Outcome, theirs: &Theirs) {
        let copied: HashSet<Uid> = self.copies.iter().map(|c| c.1).collect();
        for (n, m) in outcome.mails.iter().enumerate() {
            match (self.own_uid(m), self.peer_uid(m)) {
                (None, Some(uid)) if m.copied => match theirs.guids.get(&uid) {
                    Some(Some(guid)) if self.is_at_hand(guid, n) => {
                        self.pending.insert(m.uid);
                    }
                    Some(Some(guid)) => {
                        let list = self.by_guid.entry(guid.clone()).or_default();
                        if list.is_empty() {
                            self.requests.push(Request { guid: Some(guid.clone()), uid: Some(uid.get()) });
                        }
                        list.push(n);
                        self.pending.insert(m.uid);
                    }
                    Some(None) => {
                        self.requests.push(Request { guid: None, uid: Some(uid.get()) });
                        self.by_uid.entry(uid.get()).or_default().push(n);
                        self.pending.insert(m.uid);
                    }
                    // A stateful run does not offer it: only one without the state can bring it back.
                    None => {
                        self.import.unreadable.insert(m.uid);
                        self.ended.full_resync = true;
                    }
                },
                (None, _) if copied.contains(&m.uid) => {
                    self.pending.insert(m.uid);
                }
                (Some(uid), _) if uid != m.uid && !outcome.rebuild => {
                    self.pending.insert(m.uid);
                }
                _ => {}
            }
        }
    }

    /// The text of the n-th mail of the outcome need not be asked for.
    fn is_at_hand(&mut self, guid: &[u8], n: usize) -> bool {
        let Some(guid) = MailGuid::new(guid).filter(|_| self.own.hashes.is_none()) else { return false };
        let found = self.s.at_hand.mail(&guid.to_128()).is_some();
        if found {
            self.known.push((n, guid));
        }
        found
    }

    pub(super) fn request(&mut self, request: &Request) -> Result<()> {
        let own = &self.own;
        let uid = match (&request.guid, request.uid) {
            (Some(guid), _) => {
                let map = self.guid_uids.get_or_insert_with(|| {
                    let known = own.facts.items.iter().zip(&own.guids);
                    let mut map = HashMap::with_capacity(own.guids.len());
                    for (item, guid) in known {
                        if let Some(guid) = guid {
                            map.entry(guid.clone()).or_insert(item.uid);
                        }
                    }
                    map
                });
                MailGuid::new(guid).and_then(|g| map.get(&g).copied())
            }
            (None, Some(uid)) => {
                let uid = Uid::new(uid.saturating_sub(self.shift))
                    .filter(|u| own.facts.item(*u).is_some_and(|_| own.guids[own.index(*u)].is_some()));
                self.asked_by_uid.extend(uid);
                uid
            }
            (None, None) => None,
        };
        let Some(uid) = uid else {
            let what = request.guid.as_deref().map_or_else(
                || format!("UID {}", request.uid.unwrap_or(0)),
                |g| format!("GUID {}", String::from_utf8_lossy(&g[..g.len().min(200)])),
            );
            let text = format!("Exporting mailbox {} failed: Remote requested unexpected {what}", self.s.name);
            return Err(mail::Error::new(Class::Temporary, text).into());
        };
        if self.requested.len() > 2 * own.guids.len() + 1000 {
            return Err(Error::TooMuch("mail requests").into());
        }
        self.requested.push(uid);
        Ok(())
    }

    pub(super) fn mail(&mut self, item: MailItem, spool: Option<Spool>) -> Result<()> {
        let guid = item.guid.filter(|g| !g.is_empty());
        let wanted = match (&guid, item.uid) {
            (Some(guid), _) => self.by_guid.remove(guid),
            (None, Some(uid)) => self.by_uid.remove(&uid),
            (None, None) => None,
        };
        let Some(wanted) = wanted else {
            tracing::error!(
                "Mailbox {}: Remote sent unwanted message body for GUID={} UID={}",
                self.s.name,
                String::from_utf8_lossy(guid.as_deref().unwrap_or_default()),
                item.uid.unwrap_or(0)
            );
            self.unwanted += 1;
            if self.unwanted > UNWANTED {
                return Err(Error::TooMuch("mails that were not asked for").into());
            }
            return Ok(());
        };
        let Some(outcome) = self.outcome.take() else { return Ok(()) };
        let spooled = spool.map(Spool::finish);
        let facts = mail::Facts {
            received: timestamp(item.received),
            saved: timestamp(item.saved),
            pop3_uidl: item.pop3_uidl.filter(|u| !u.is_empty()).map(|u| String::from_utf8_lossy(&u).into_owned()),
            pop3_order: item.pop3_order.unwrap_or(0),
            virtual_size: None,
            in_alt: false,
        };
        let mut result = Ok(());
        for n in wanted {
            let m = &outcome.mails[n];
            self.pending.remove(&m.uid);
            let Some(spooled) = &spooled else {
                // Perhaps it is there under another name of its file: it must not look expunged here.
                self.import.surprised = true;
                self.import.unreadable.insert(m.uid);
                continue;
            };
            let uid = self.peer_uid(m).unwrap_or(m.uid);
            let guid = guid.as_deref().and_then(MailGuid::new).unwrap_or_else(MailGuid::generate);
            let text = MailText { uid, guid, facts: facts.clone(), body: spooled.body() };
            let mut import = self.import.take();
            result = self.carry().stage(text, m, &mut import);
            self.import = import;
            if result.is_err() {
                break;
            }
            self.staged_top = self.staged_top.max(Some(m.uid));
        }
        let ready = self.import.staged >= BATCH && self.is_below_the_rest();
        if result.is_ok() && ready && !outcome.rebuild {
            let mut import = self.import.take();
            result = self.carry().commit(&mut import);
            self.import = import;
        }
        self.outcome = Some(outcome);
        Ok(result?)
    }

    /// Only what stands below everything that is still to come can become visible.
    pub(super) fn is_below_the_rest(&self) -> bool {
        self.pending.first().is_none_or(|next| self.staged_top < Some(*next))
    }

    /// All mails are here.
    pub(super) fn finish_import(&mut self) -> Result<()> {
        let (Some(outcome), Some(theirs)) = (self.outcome.take(), self.theirs.take()) else { return Ok(()) };
        let missing = self.by_guid.values().chain(self.by_uid.values()).flatten().copied().collect::<Vec<_>>();
        if let Some(m) = missing.first().map(|&n| &outcome.mails[n]) {
            let text = format!("Mailbox {}: Remote didn't send mail UID={}", self.s.name, self.peer_uid(m).unwrap_or(m.uid));
            self.outcome = Some(outcome);
            return Err(mail::Error::new(Class::Temporary, text).into());
        }
        let mut import = self.import.take();
        let result = self.carry_out(&outcome, &theirs, &mut import);
        self.import = import;
        self.imported = result.is_ok();
        result
    }

    pub(super) fn carry_out(&mut self, outcome: &Outcome, theirs: &Theirs, import: &mut Import) -> Result<()> {
        let copies: HashMap<Uid, Uid> = std::mem::take(&mut self.copies).into_iter().map(|(from, to)| (to, from)).collect();
        for m in &outcome.mails {
            if let Some(&from) = copies.get(&m.uid).filter(|_| own_uid(self.s.side, m).is_none()) {
                self.carry().stage_instance(from, m, import, Original::Keep)?;
            }
        }
        for (n, guid) in std::mem::take(&mut self.known) {
            let m = &outcome.mails[n];
            let found = self.s.at_hand.mail(&guid.to_128());
            let facts = found.map(|(facts, _)| facts).unwrap_or_default();
            let known = KnownMail { uid: self.peer_uid(m).unwrap_or(m.uid), guid, facts };
            let mut carry = Carry {
                side: self.s.side,
                placement: self.s.options.placement,
                mailbox: &mut *self.s.mailbox,
                name: self.s.name,
                report: &mut *self.s.report,
            };
            carry.stage_known(known, m, import, self.s.at_hand)?;
        }
        let held = {
            let sides = (&self.own.facts, &theirs.known.facts);
            let ranges = held_back(self.s.side, self.s.options.mode, sides, outcome, import);
            let here = |uid: &Uid| self.own.facts.item(*uid).is_none();
            with_uids(ranges, self.own.claims.keys().copied().filter(here).chain(self.kept.iter().copied()))
        };
        let facts = self.own.facts.clone();
        // Before UIDNEXT passes them: if the run stops there, they are not taken for expunged.
        hold_back(&mut *self.s.mailbox, &held, self.s.options)?;
        if outcome.rebuild {
            self.carry().rebuild(&facts, &theirs.known.facts, outcome, import)?;
        } else {
            for m in &outcome.mails {
                if let Some(from) = self.own_uid(m).filter(|from| *from != m.uid) {
                    self.carry().stage_move(from, m, import)?;
                }
            }
            self.carry().commit(import)?;
            self.carry().edit(&facts, outcome, import)?;
            let two_way = self.s.options.mode == Mode::TwoWay;
            let complete = self.s.options.filter.is_empty() || !two_way;
            hold_back(&mut *self.s.mailbox, &held, self.s.options)?;
            self.s.mailbox.raise(&Floors {
                uid_next: complete.then_some(outcome.uid_next),
                first_recent: complete.then_some(outcome.first_recent),
                highest_modseq: if two_way { self.peer_status.highest_modseq } else { ModSeq(0) },
            })?;
        }
        self.s.mailbox.refresh()?;
        if import.surprised {
            self.ended.desync = Some("UIDs changed due to UID conflicts".into());
            self.last_common_after = self.status.identity.uid_next.get() - 1;
        }
        Ok(())
    }
}
