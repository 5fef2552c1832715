//! Moving mails to the alternative storage, as `doveadm altmove` does it (dbox.md 2.6). A kill after a step leaves:
//!
//! ```text
//! 1 copies in temp files there, synced        `.temp.*` files
//! 2 renamed to u.UID, directory synced        the mails in both places: readers look into the primary one first
//! 3 flag 0x40 in the log, synced              the same
//! 4 files in the primary storage removed      the mails in the alternative storage
//! ```

use super::mailbox::SdboxMailbox;
use super::view::IN_ALT;
use crate::index::{Bits, Durability, Transaction};
use crate::mail::{Result, Uid};
use crate::os::Fsync;
use crate::os::fs;
use crate::store::dbox::Writer;

/// Moves the files of these mails, unless there is no alternative storage to take them.
pub(super) fn move_there(mailbox: &mut SdboxMailbox, uids: &[Uid]) -> Result<()> {
    if uids.is_empty() {
        return Ok(());
    }
    let modes = mailbox.place.modes;
    let Some(alt) = mailbox.files.alt_for_new(&modes)?.map(ToOwned::to_owned) else { return Ok(()) };
    let durable = mailbox.settings.index.fsync != Fsync::Never;
    let mut moved = Vec::new();
    for &uid in uids {
        let opened = mailbox.open_mail(uid)?;
        if opened.in_alt {
            continue;
        }
        let mut writer = Writer::create(&alt, &modes)?;
        writer.append_stored(&opened.file, &opened.message, &opened.message.metadata)?;
        if durable {
            writer.sync()?;
        } else {
            writer.flush()?;
        }
        moved.push((uid, writer.close()));
    }
    let mut uids = Vec::new();
    for (uid, temp) in moved {
        // No mail of this UID is read from there: what it has of this name was left by somebody.
        temp.replace(&alt.join(super::files::file_name(uid)))?;
        uids.push(uid);
    }
    if durable {
        fs::fsync_dir(&alt)?;
    }
    let mut locked = mailbox.lock_index()?;
    let mut transaction = Transaction::new(Bits::EXTERNAL);
    for &uid in uids.iter().filter(|uid| locked.state().row(**uid).is_some()) {
        transaction.raw_flags(uid, IN_ALT, 0);
    }
    locked.commit(&transaction, Durability::Mail)?;
    drop(locked);
    fs::each(&uids, |&uid| fs::unlink_if_there(&mailbox.files.primary(uid)).map(drop))?;
    Ok(())
}
