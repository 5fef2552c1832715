//! The two B of each mailbox (wire.md 5.3).

use super::*;

/// How often one mailbox is told of at most.
const TURNS: usize = 4;
/// How many others may have come in the meantime.
const OTHERS: usize = 1000;

impl Session<'_> {
    pub(super) fn open(&mut self, store: &mut dyn Store, name: &MailboxName) -> mail::Result<Box<dyn Mailbox>> {
        let mut mailbox = store.open(name)?;
        match mailbox.lock(self.options.lock_timeout.unwrap_or(MAILBOX_LOCK)) {
            Err(e) if e.class() == Class::Permission && self.options.mode.is_source(self.side) => {
                tracing::debug!("Mailbox {name}: used without a lock: {e}");
            }
            result => result?,
        }
        mailbox.refresh()?;
        Ok(mailbox)
    }

    /// Nothing has changed here since the saved state (wire.md 5.3).
    pub(super) fn is_unchanged(&self, b: &MailboxItem) -> bool {
        self.is_stateful()
            && self.saved.0.get(&b.guid).is_some_and(|s| {
                s.uidvalidity.map(UidValidity::get) == Some(b.uidvalidity)
                    && s.last_common.map_or(1, |u| u.next().get()) == b.uid_next
                    && s.modseq.0 == b.highest_modseq
                    && s.private_modseq.0 == b.highest_private_modseq
                    && s.messages == b.messages
            })
    }

    /// The state to start from, if there is one.
    pub(super) fn common(&self, guid: MailboxGuid) -> Option<MailboxState> {
        self.saved.0.get(&guid).copied().filter(|s| self.is_stateful() && (s.last_common.is_some() || s.modseq.0 > 0))
    }

    /// Reads the log; or tells why the saved state cannot be used (wire.md 5.6).
    pub(super) fn changes(
        &self,
        mailbox: &mut dyn Mailbox,
        saved: Option<MailboxState>,
    ) -> mail::Result<std::result::Result<mail::Changes, String>> {
        let Some(saved) = saved else { return Ok(Ok(mailbox.changes(Since::Everything)?)) };
        let status = mailbox.status();
        let last = saved.last_common.map_or(0, Uid::get);
        if status.identity.uid_next.get() < last {
            return Ok(Err(format!("uidnext {} < {last}", status.identity.uid_next)));
        }
        if status.highest_modseq < saved.modseq {
            return Ok(Err(format!("highest_modseq {} < {}", status.highest_modseq, saved.modseq)));
        }
        let changes = mailbox.changes(Since::State { modseq: saved.modseq, uid: saved.last_common })?;
        Ok(match changes.too_old {
            Some(why) => Err(why),
            None => Ok(changes),
        })
    }

    pub(super) fn cannot_continue(&mut self, name: &MailboxName, why: &str) {
        tracing::warn!("Failed to do incremental sync for mailbox {name}, retry with a full sync ({why})");
        self.report.desync(format!("Incremental sync failed: {why}"));
        self.report.full_resync = true;
    }

    /// Nothing is said of this mailbox. Where it took so long that a mailbox item has been begun, that becomes one of a mailbox
    /// that nobody has, which the other side refuses.
    fn pass_over(&mut self) -> Result<()> {
        if !self.conn.worked() {
            return Ok(());
        }
        let guid = MailboxGuid::generate();
        let refusal = MailboxItem::refusal(guid, false);
        let answer = self.offer(&MailboxItem { uidvalidity: 1, uid_next: 1, first_recent: 1, lost: false, ..refusal })?;
        if answer.lost || answer.ignore {
            return Ok(());
        }
        Err(Error::Value { kind: "mailbox", column: "mailbox_guid", value: guid.to_string() }.into())
    }

    /// The master's part of one mailbox.
    pub(super) fn offer_mailbox(&mut self, store: &mut dyn Store, guid: MailboxGuid, name: &MailboxName) -> Result<()> {
        self.at = "master_send_mailbox";
        self.conn.work(Ahead::mailbox());
        let mut mailbox = match self.open(store, name) {
            Ok(mailbox) => mailbox,
            Err(e) if matches!(e.class(), Class::NotFound | Class::NotPossible) => return self.pass_over(),
            Err(e) => return Err(End::Own(e.at(format!("Failed to access mailbox {name}")))),
        };
        let own = view::mailbox_item(&*mailbox);
        if own.guid != guid {
            return self.pass_over();
        }
        // One that was begun to be told of while it was looked at is told of.
        if self.is_unchanged(&own) && !self.conn.worked() {
            return Ok(());
        }
        let saved = self.common(guid);
        let changes = match self.changes(&mut *mailbox, saved)? {
            Ok(changes) => changes,
            Err(why) => {
                self.cannot_continue(name, &why);
                return self.pass_over();
            }
        };
        let mut own = own;
        if let Some(theirs) = self.their_uidvalidity.get(&guid).copied() {
            self.settle_uidvalidity(&mut *mailbox, name, &mut own, theirs)?;
        }
        self.stand_out(&mut own);
        let mut peer = self.offer(&own)?;
        if peer.lost
            && let Some(former) = self.former.iter().find(|(_, n)| *n == name).map(|(g, _)| *g)
        {
            // A Dovecot with Maildir takes our former GUID whatever the two are (sync.md 4.7): then we go back to it.
            mailbox.set_identity(former, mailbox.status().identity.uidvalidity)?;
            mailbox.refresh()?;
            own = view::mailbox_item(&*mailbox);
            peer = self.offer(&own)?;
        }
        if peer.ignore {
            return Ok(());
        }
        if peer.lost {
            self.report.desync(format!("Remote lost mailbox GUID {guid} (maybe it was just deleted?)"));
            self.report.full_resync |= self.is_stateful();
            return Ok(());
        }
        if self.options.algorithm == Algorithm::Changed && same_numbers(&own, &peer) {
            self.adopt_uidvalidity(&mut *mailbox, name, &own, &peer)?;
            self.remember_skipped(&own);
            return Ok(());
        }
        if saved.is_some_and(|s| s.last_common.is_some()) && own.uidvalidity != peer.uidvalidity {
            self.report.full_resync = true;
            let text = "UIDVALIDITY changed during a stateful sync, need to restart";
            return Err(End::Own(mail::Error::new(Class::Temporary, text)));
        }
        self.adopt_uidvalidity(&mut *mailbox, name, &own, &peer)?;
        self.exchange(store, &mut *mailbox, name, own, peer, saved, changes)
    }

    pub(super) fn offer(&mut self, own: &MailboxItem) -> Result<MailboxItem> {
        self.conn.send(&Item::Mailbox(Box::new(own.clone())));
        self.at = "sync_mails";
        let answer = self.item()?;
        self.in_tree = false;
        match answer {
            Item::Mailbox(b) if b.guid == own.guid => Ok(*b),
            Item::Mailbox(b) => Err(Error::Value { kind: "mailbox", column: "mailbox_guid", value: b.guid.to_string() }.into()),
            other => Err(Self::unexpected(&other, "mailbox")),
        }
    }

    /// The slave's part of all mailboxes.
    pub(super) fn answer_mailboxes(
        &mut self,
        store: &mut dyn Store,
        mut names: BTreeMap<MailboxGuid, MailboxName>,
    ) -> Result<()> {
        let mut most = TURNS * names.len() + OTHERS;
        loop {
            self.at = "slave_recv_mailbox";
            self.check_stop()?;
            let peer = match self.item()? {
                Item::End => return Ok(()),
                Item::Mailbox(b) => *b,
                other => return Err(Self::unexpected(&other, "mailbox")),
            };
            most = most.checked_sub(1).ok_or(Error::TooMuch("mailboxes"))?;
            self.answer(store, peer, &mut names)?;
            self.conn.wait_for_room()?;
        }
    }

    pub(super) fn answer(
        &mut self,
        store: &mut dyn Store,
        peer: MailboxItem,
        names: &mut BTreeMap<MailboxGuid, MailboxName>,
    ) -> Result<()> {
        let guid = peer.guid;
        self.conn.work(Ahead::mailbox());
        let refuse = |session: &mut Self, ignore| {
            session.conn.send(&Item::Mailbox(Box::new(MailboxItem::refusal(guid, ignore))));
        };
        if view::status(&peer).is_none() || peer.first_recent > peer.uid_next {
            return Err(Error::Value { kind: "mailbox", column: "uid_validity", value: peer.uidvalidity.to_string() }.into());
        }
        if !names.contains_key(&guid) {
            // It may have come, or got this GUID, just now.
            let tree = store.scan(&self.options.namespaces)?;
            let found = tree.nodes.iter().find(|n| n.identity.is_some_and(|i| i.guid == guid));
            names.extend(found.map(|n| (guid, n.name.clone())));
        }
        let former = self.former.get(&guid).cloned().filter(|_| !names.contains_key(&guid));
        let Some(name) = names.get(&guid).cloned().or_else(|| former.clone()) else {
            let ignore = self.options.mode == Mode::OneWay(Source::Slave);
            if !ignore {
                self.report.desync(format!("Mailbox GUID {guid} was lost"));
            }
            refuse(self, ignore);
            return Ok(());
        };
        let mut mailbox = match self.open(store, &name) {
            Ok(mailbox) => mailbox,
            Err(e) if matches!(e.class(), Class::NotFound | Class::NotPossible) => {
                refuse(self, false);
                return Ok(());
            }
            Err(e) => return Err(End::Own(e.at(format!("Can't open mailbox {name}")))),
        };
        if former.is_some() {
            mailbox.set_identity(guid, mailbox.status().identity.uidvalidity)?;
            mailbox.refresh()?;
        }
        let mut own = view::mailbox_item(&*mailbox);
        if let Some(theirs) = UidValidity::new(peer.uidvalidity) {
            self.settle_uidvalidity(&mut *mailbox, &name, &mut own, theirs)?;
        }
        if own.guid != guid {
            self.report.desync(format!("Mailbox GUID {guid} was lost"));
            refuse(self, false);
            return Ok(());
        }
        self.stand_out(&mut own);
        let skip = self.options.algorithm == Algorithm::Changed && same_numbers(&own, &peer);
        let saved = self.common(guid);
        if !skip && saved.is_some_and(|s| s.last_common.is_some()) && own.uidvalidity != peer.uidvalidity {
            self.report.full_resync = true;
            self.report.desync("UIDVALIDITY changed during a stateful sync, need to restart");
            refuse(self, false);
            return Ok(());
        }
        let changes = if skip { Ok(mail::Changes::default()) } else { self.changes(&mut *mailbox, saved)? };
        let changes = match changes {
            Ok(changes) => changes,
            Err(why) => {
                self.cannot_continue(&name, &why);
                refuse(self, false);
                return Ok(());
            }
        };
        self.conn.send(&Item::Mailbox(Box::new(own.clone())));
        self.adopt_uidvalidity(&mut *mailbox, &name, &own, &peer)?;
        if skip {
            self.remember_skipped(&own);
            return Ok(());
        }
        self.at = "sync_mails";
        self.exchange(store, &mut *mailbox, &name, own, peer, saved, changes)
    }

    /// Two mailboxes that have just become one may have equal numbers by chance (made in one second, with as many mails). A
    /// modseq that is one higher than needed keeps both sides from taking them for equal.
    pub(super) fn stand_out(&self, own: &mut MailboxItem) {
        if self.options.algorithm == Algorithm::Changed && !self.known.contains(&own.guid) && own.messages > 0 {
            own.highest_modseq += 1;
        }
    }

    /// A Dovecot that is the source takes over the UIDVALIDITY of a destination with more mails (sync.md 5.5); so before it
    /// gets to see ours, it is its own. One that is the destination keeps its own if it has more mails: so it is told of many.
    pub(super) fn settle_uidvalidity(
        &mut self,
        mailbox: &mut dyn Mailbox,
        name: &MailboxName,
        own: &mut MailboxItem,
        theirs: UidValidity,
    ) -> Result<()> {
        if self.options.mode == Mode::TwoWay || own.uidvalidity == theirs.get() {
            return Ok(());
        }
        if self.options.mode.is_source(self.side) {
            own.messages = own.messages.max(MANY);
            return Ok(());
        }
        self.set_uidvalidity(mailbox, name, own, theirs)?;
        *own = view::mailbox_item(mailbox);
        Ok(())
    }

    /// The other side's UIDVALIDITY, where that is the one that stays (wire.md 5.3.2). A source keeps its own.
    pub(super) fn adopt_uidvalidity(
        &mut self,
        mailbox: &mut dyn Mailbox,
        name: &MailboxName,
        own: &MailboxItem,
        peer: &MailboxItem,
    ) -> Result<()> {
        if own.uidvalidity == peer.uidvalidity || self.options.mode.is_source(self.side) {
            return Ok(());
        }
        let two_way = self.options.mode == Mode::TwoWay;
        if two_way && (peer.messages, peer.uidvalidity) < (own.messages, own.uidvalidity) {
            return Ok(());
        }
        match UidValidity::new(peer.uidvalidity) {
            Some(uidvalidity) => self.set_uidvalidity(mailbox, name, own, uidvalidity),
            None => Ok(()),
        }
    }

    pub(super) fn set_uidvalidity(
        &mut self,
        mailbox: &mut dyn Mailbox,
        name: &MailboxName,
        own: &MailboxItem,
        uidvalidity: UidValidity,
    ) -> Result<()> {
        tracing::debug!("Mailbox {name}: UIDVALIDITY changes from {} to {uidvalidity}", own.uidvalidity);
        mailbox
            .set_identity(own.guid, uidvalidity)
            .map_err(|e| End::Own(e.at(format!("Couldn't update mailbox {name} metadata"))))?;
        mailbox.refresh()?;
        self.report.done.identity += 1;
        Ok(())
    }

    pub(super) fn remember_skipped(&mut self, own: &MailboxItem) {
        let state = MailboxState {
            uidvalidity: UidValidity::new(own.uidvalidity),
            last_common: None,
            modseq: ModSeq(0),
            private_modseq: ModSeq(0),
            messages: own.messages,
        };
        self.report.state.0.insert(own.guid, state);
    }

    #[expect(clippy::too_many_arguments, reason = "what the two items of a mailbox have brought together")]
    pub(super) fn exchange(
        &mut self,
        store: &mut dyn Store,
        mailbox: &mut dyn Mailbox,
        name: &MailboxName,
        own: MailboxItem,
        peer: MailboxItem,
        saved: Option<MailboxState>,
        changes: mail::Changes,
    ) -> Result<()> {
        let mut report = RoundReport::default();
        let guid = own.guid;
        self.at_hand.open(store);
        self.budget.begin(&peer);
        let subject = Subject {
            conn: &mut self.conn,
            options: &self.options,
            settings: self.settings,
            side: self.side,
            hashed_headers: &self.hashed_headers,
            store,
            mailbox,
            name,
            own,
            peer,
            saved,
            changes,
            unified: !self.known.contains(&guid),
            at_hand: &mut self.at_hand,
            budget: &mut self.budget,
            report: &mut report,
        };
        self.in_lists = Some(name.clone());
        let result = exchange::run(subject);
        if result.is_ok() {
            self.in_lists = None;
        }
        self.report.mailbox(name, report.done, report.bad);
        let Ended { state, desync, full_resync } = result?;
        self.report.full_resync |= full_resync;
        if let Some(reason) = desync {
            self.report.desync(reason);
        }
        if let Some(state) = state {
            self.report.state.0.insert(guid, state);
        }
        Ok(())
    }
}
