//! What this side sends.

use super::*;

impl Exchange<'_> {
    /// Sends some of what may be sent now. False when something has to come first.
    pub(super) fn produce(&mut self) -> Result<bool> {
        if self.sending != Phase::Done && !self.s.conn.has_room() {
            return Ok(false);
        }
        match self.sending {
            Phase::Attributes | Phase::Changes => {
                if self.hold_changes {
                    if self.receiving <= Phase::Changes {
                        return Ok(false);
                    }
                    self.hold_changes = false;
                }
                let told = match self.told.take() {
                    Some(told) => told,
                    None => self.plan_changes(),
                };
                let end = told.len().min(self.next_told + 256);
                for &(uid, what) in &told[self.next_told..end] {
                    if let Some(mut change) = self.change(uid, what) {
                        change.uid = change.uid.saturating_add(self.shift);
                        self.s.conn.send(&Item::Change(change));
                    }
                }
                self.next_told = end;
                if end == told.len() {
                    if self.s.conn.worked() {
                        // A list was begun, and there is nothing to put into it.
                        let text = format!("Mailbox {}: none of its mails can be read", self.s.name);
                        return Err(mail::Error::new(Class::Temporary, text).into());
                    }
                    self.s.conn.send(&Item::End);
                    self.sending = if self.receives { Phase::Requests } else { Phase::Mails };
                } else {
                    self.told = Some(told);
                }
                Ok(true)
            }
            Phase::Requests => {
                if self.receiving <= Phase::Changes {
                    return Ok(false);
                }
                for request in std::mem::take(&mut self.requests) {
                    self.s.conn.send(&Item::Request(request));
                }
                self.s.conn.send(&Item::End);
                self.sending = if self.sends { Phase::Mails } else { Phase::State };
                Ok(true)
            }
            Phase::Mails => {
                if self.receiving <= Phase::Requests {
                    return Ok(false);
                }
                self.send_mails()?;
                Ok(true)
            }
            Phase::State => {
                if self.receiving < Phase::State {
                    return Ok(false);
                }
                if self.receives {
                    self.s.conn.work(Ahead::state(self.s.own.guid));
                    self.finish_import()?;
                }
                let state = self.state();
                self.s.conn.send(&Item::State(state.clone()));
                self.s.conn.flush();
                self.own_state = Some(state);
                self.sending = Phase::Done;
                Ok(true)
            }
            Phase::Done => Ok(false),
        }
    }

    /// What is told of mails, by UID: those that are there, those that are gone, and claims.
    pub(super) fn plan_changes(&self) -> Vec<(Uid, Told)> {
        let own = &self.own;
        let mut out = Vec::with_capacity(own.facts.items.len() + own.facts.expunged.len());
        out.extend(own.claims.keys().map(|uid| (*uid, Told::Claim)));
        out.extend(own.facts.items.iter().enumerate().map(|(n, i)| (i.uid, Told::Item(n))));
        // Above the common UIDs of a state nobody asks what is gone.
        let asked = |uid: Uid| self.last_common.is_none_or(|l| uid <= l) && self.shift == 0;
        out.extend(own.facts.expunged.iter().enumerate().filter(|(_, e)| asked(e.uid)).map(|(n, e)| (e.uid, Told::Gone(n))));
        // No UID occurs twice: what stands first here counts.
        out.sort_by_key(|(uid, told)| (*uid, *told));
        out.dedup_by_key(|(uid, _)| *uid);
        out
    }

    pub(super) fn change(&self, uid: Uid, told: Told) -> Option<Change> {
        let filter = &self.s.options.filter;
        match told {
            Told::Claim => self.own.claims.get(&uid).cloned(),
            Told::Item(n) => self.own.change(n, self.last_common, filter.since.is_some() || filter.until.is_some()),
            Told::Gone(n) => Some(Own::expunge(&self.own.facts.expunged[n], filter)),
        }
    }

    pub(super) fn send_mails(&mut self) -> Result<()> {
        if let Some(body) = &mut self.body {
            self.buffer.resize(PART, 0);
            let n = body
                .read(&mut self.buffer)
                .map_err(|e| mail::Error::new(Class::Temporary, format!("Exporting mailbox {} failed: {e}", self.s.name)))?;
            if n > 0 {
                self.s.conn.send_data(&self.buffer[..n]);
            } else {
                self.s.conn.send_data_end();
                self.body = None;
            }
            return Ok(());
        }
        let Some(&uid) = self.requested.get(self.next_requested) else {
            self.s.conn.send(&Item::End);
            self.sending = Phase::State;
            return Ok(());
        };
        self.next_requested += 1;
        let by_uid = self.asked_by_uid.contains(&uid);
        let guid = self.own.guids[self.own.index(uid)].as_ref().map(MailGuid::text);
        let text = self.carry().text(uid);
        let mut item = MailItem {
            guid: if by_uid { Some(Vec::new()) } else { guid },
            uid: by_uid.then_some(uid.get().saturating_add(self.shift)),
            pop3_uidl: Some(Vec::new()),
            ..MailItem::default()
        };
        match text {
            Ok(text) => {
                let time = |t: mail::Timestamp| (t.0 > 0).then_some(i64::from(t.0));
                item.pop3_uidl = Some(text.facts.pop3_uidl.unwrap_or_default().into_bytes());
                item.pop3_order = Some(text.facts.pop3_order).filter(|o| *o > 0);
                item.received = time(text.facts.received);
                item.saved = time(text.facts.saved);
                match self.readable(text.body) {
                    Ok(body) => {
                        item.stream = true;
                        self.body = Some(body);
                    }
                    Err(e) => self.withhold(uid, e),
                }
            }
            Err(e) => self.withhold(uid, e),
        }
        self.s.conn.send(&Item::Mail(item));
        Ok(())
    }

    fn withhold(&mut self, uid: Uid, why: mail::Error) {
        if self.s.options.mode == Mode::TwoWay {
            self.withheld.push(uid);
        }
        self.carry().bad(uid, why);
    }

    /// A text that can be read to its end. One that has to be unpacked is, before anything is said of it: half a mail would
    /// be the end of the session.
    pub(super) fn readable(&self, mut body: mail::Body) -> mail::Result<Box<dyn Read + Send>> {
        if body.range.is_some() {
            return Ok(body.reader);
        }
        let mut spool = Spool::default();
        let mut buffer = vec![0; PART];
        loop {
            let n = body.reader.read(&mut buffer).map_err(|e| mail::Error::new(Class::Temporary, e))?;
            if n == 0 {
                return Ok(spool.finish().body().reader);
            }
            spool.add(&buffer[..n], &self.s.settings.temp_dir)?;
        }
    }

    pub(super) fn carry(&mut self) -> Carry<'_> {
        Carry {
            side: self.s.side,
            placement: self.s.options.placement,
            mailbox: &mut *self.s.mailbox,
            name: self.s.name,
            report: &mut *self.s.report,
        }
    }
}

/// The first list. It does not wait until the mails have been looked at.
pub(super) fn attributes(conn: &mut Conn, own: Option<&Attributes>, incremental: bool) {
    let Some(own) = own else { return conn.send(&Item::End) };
    let change = |key: &AttributeKey| own.changes.iter().rev().find(|c| c.key == *key);
    let mut list: Vec<&Attribute> = own.present.iter().filter(|a| !incremental || change(&a.key).is_some()).collect();
    list.sort_by_key(|a| !a.key.private);
    let items: Vec<(AttributeItem, Option<&Vec<u8>>)> = list
        .into_iter()
        .filter_map(|a| {
            let value = a.value.as_ref()?;
            let stream = value.len() > INLINE || value.contains(&0);
            let item = AttributeItem {
                private: a.key.private,
                key: a.key.key.clone().into_bytes(),
                value: (!stream).then(|| value.clone()),
                stream,
                deleted: false,
                last_change: (a.changed.0 > 0).then_some(a.changed.0.into()),
                modseq: change(&a.key).map(|c| c.modseq.0).filter(|m| *m > 0),
            };
            Some((item, stream.then_some(value)))
        })
        .collect();
    for (item, data) in items {
        conn.send(&Item::Attribute(Box::new(item)));
        if let Some(data) = data {
            conn.send_data(data);
            conn.send_data_end();
        }
    }
    for c in own.changes.iter().filter(|c| c.removed && !own.present.iter().any(|a| a.key == c.key)) {
        let item = AttributeItem {
            private: c.key.private,
            key: c.key.key.clone().into_bytes(),
            value: None,
            stream: false,
            deleted: true,
            last_change: None,
            modseq: Some(c.modseq.0).filter(|m| *m > 0),
        };
        conn.send(&Item::Attribute(Box::new(item)));
    }
    conn.send(&Item::End);
}
