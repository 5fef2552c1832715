//! The two trees (wire.md 5.1, steps 4 to 6).

use super::*;

impl Session<'_> {
    pub(super) fn tree_options(&self) -> TreeOptions {
        TreeOptions {
            peer: Peer::Dovecot,
            only: self.options.only.clone(),
            exclude: self.options.exclude.clone(),
            allow_empty_source: self.options.allow_empty_source,
            ..TreeOptions::new(self.options.mode, self.side)
        }
    }

    pub(super) fn version(&self) -> Version {
        let peer = self.conn.peer();
        if peer.has(Kind::Handshake, "no_mailbox_renames") || !peer.has(Kind::Deletes, "escape_char") {
            Version::V22
        } else if peer.has(Kind::Handshake, "import_commit_msgs_interval") {
            Version::V23
        } else {
            Version::V24
        }
    }

    pub(super) fn receive_tree(&mut self) -> Result<(Vec<TreeNode>, Deletes)> {
        self.at = "recv_mailbox_tree";
        let mut nodes = Vec::new();
        loop {
            match self.collected("mailboxes")? {
                Item::End => break,
                Item::Node(n) => nodes.push(*n),
                other => return Err(Self::unexpected(&other, "mailbox_tree_node")),
            }
        }
        self.at = "recv_mailbox_tree_deletes";
        match self.collected("mailbox deletions")? {
            Item::Deletes(d) => Ok((nodes, *d)),
            other => Err(Self::unexpected(&other, "mailbox_delete")),
        }
    }

    pub(super) fn send_tree(&mut self, own: &Tree, theirs: Option<&(Vec<TreeNode>, Deletes)>) {
        self.at = "send_mailbox_tree";
        let options = self.tree_options();
        let mut nodes = names::nodes(own, theirs.map(|t| &t.0[..]), &options, self.version());
        if let Some((theirs, _)) = theirs.filter(|_| self.settings.leave_inbox) {
            names::take_inbox(&mut nodes, theirs);
        }
        self.in_tree = true;
        if self.conn.worked() {
            names::inbox_first(&mut nodes);
        }
        for node in nodes {
            self.conn.send(&Item::Node(Box::new(node)));
        }
        self.conn.send(&Item::End);
        self.conn.send(&Item::Deletes(Box::new(names::deletes(own, theirs.map(|t| t.1.separator)))));
        self.conn.flush();
    }

    pub(super) fn sync_tree(&mut self, store: &mut dyn Store) -> Result<Plan> {
        self.conn.work(Ahead::inbox());
        let own = store.scan(&self.options.namespaces)?;
        for (name, error) in &own.problems {
            tracing::error!("Failed to access mailbox {name}: {error}");
            self.report.fail(error.class());
        }
        let is_source = self.options.mode.is_source(self.side);
        if !is_source {
            self.at_hand = AtHand::new(self.options.all_mailbox.as_ref(), &own);
        }
        let mut theirs = None;
        if self.side == Side::Master {
            theirs = Some(self.receive_tree()?);
        } else {
            if !own.problems.is_empty() && is_source {
                // The other side would take what is not told for deleted.
                return Err(End::Told(Class::Temporary));
            }
            // A Dovecot master sends its tree unasked. We wait for it only if we have something to tell that may be its end.
            if self.beside_dovecot && names::tells_names(&own) {
                theirs = Some(self.receive_tree()?);
            }
            self.send_tree(&own, theirs.as_ref());
        }
        let received = match theirs {
            Some(received) => received,
            None => self.receive_tree()?,
        };
        let peer = names::tree(&received.0, &received.1, self.settings.alt_char, &own)?;
        let plan = plan::plan(&own, &peer, &self.tree_options()).map_err(|e| End::Own(mail::Error::new(e.class(), e)))?;
        if self.side == Side::Master {
            self.send_tree(&own, Some(&received));
        }
        for note in &plan.notes {
            if note.is_problem() {
                self.report.skipped += 1;
            }
            tracing::warn!("{note}");
        }
        self.known = own.guids().intersection(&peer.guids()).copied().collect();
        let identities = peer.nodes.iter().filter_map(|n| n.identity);
        self.their_uidvalidity = identities.map(|i| (i.guid, i.uidvalidity)).collect();
        // One way, two of one name become one with the source's GUID.
        let there: HashMap<_, _> = peer.nodes.iter().filter_map(|n| Some((&n.name, n.identity?.uidvalidity))).collect();
        for (name, identity) in own.nodes.iter().filter_map(|n| Some((&n.name, n.identity?))) {
            if let Some(uidvalidity) = there.get(name) {
                self.their_uidvalidity.entry(identity.guid).or_insert(*uidvalidity);
            }
        }
        let outcome = plan::execute(store, &plan.actions)?;
        self.report.tree(plan.actions.len(), outcome);
        for action in &plan.actions {
            if let TreeAction::SetGuid { name, from, .. } = action {
                self.former.insert(*from, name.clone());
            }
        }
        Ok(plan)
    }
}
