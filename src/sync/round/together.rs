//! Several mailboxes carried through together: what is said of all of them travels in one flight, so that the number of times
//! a side waits for the other does not depend on the number of mailboxes.
//!
//! In each flight each side says one thing of each mailbox: what belongs there, or that it gives the mailbox up. Then both
//! know which mailboxes go on to the next flight.

use std::sync::Arc;

use super::{Common, Decided, ROUNDS, Result, Round, RoundError};
use crate::mail::{self, Guid128};
use crate::sync::at_hand::AtHand;
use crate::sync::flow::{Flow, Turn};
use crate::sync::last_copy::LastCopies;
use crate::sync::merge::{Facts, NewGuids};
use crate::sync::message::{Failure, LinkError, Message};

/// A mailbox on its way; or this side cannot use it, and has reported that.
pub type Entrant<'a> = std::result::Result<Round<'a>, Failure>;

/// Where a mailbox stands: its number, and what the last flight has brought, or that this side gives it up.
type Job<T> = (usize, Outcome<T>);
type Outcome<T> = std::result::Result<T, Failure>;

/// Carries the mailboxes through. What is wrong with a single one is in its report.
///
/// # Errors
/// [`RoundError::End`]: the run ends.
pub fn run(rounds: &mut [Entrant<'_>], flow: &mut Flow<'_>, at_hand: &mut AtHand, last: &mut LastCopies) -> Result<()> {
    let mut open: Vec<usize> = (0..rounds.len()).collect();
    for n in 1..=ROUNDS {
        open = once(rounds, &open, n, (flow, at_hand, last))?;
        if open.is_empty() {
            break;
        }
    }
    Ok(())
}

/// One round of these mailboxes. Gives those that need another one.
fn once(
    rounds: &mut [Entrant<'_>],
    open: &[usize],
    n: u32,
    (flow, at_hand, last): (&mut Flow<'_>, &mut AtHand, &mut LastCopies),
) -> Result<Vec<usize>> {
    let jobs: Vec<Job<()>> = open.iter().map(|&i| (i, Ok(()))).collect();
    let near = flow.is_near();
    let begin = |round: &mut Round<'_>, ()| {
        let own = round.begin(n > 1, near)?;
        Ok((Message::Facts(Arc::clone(&own)), own))
    };
    let jobs = flight(rounds, jobs, flow, begin, hear_facts)?;
    let jobs = complete(rounds, jobs, flow)?;
    let compare = |round: &mut Round<'_>, (own, peer): (Arc<Facts>, Arc<Facts>)| {
        let here = if round.is_source() { Vec::new() } else { at_hand.lacking(&own, &peer) };
        let mut common = round.compare(own, peer);
        common.guids = round.guids(&common);
        Ok((Message::Guids(common.guids.clone(), here), common))
    };
    let jobs: Vec<Job<Asked>> = flight(rounds, jobs, flow, compare, |common, said| match said {
        Message::Guids(theirs, there) => Ok(Asked { common, theirs, there }),
        other => Err(unexpected(&other, "GUIDs")),
    })?;
    let mut ends = Vec::with_capacity(jobs.len());
    let mut dones = Vec::with_capacity(jobs.len());
    for (at, (i, job)) in jobs.into_iter().enumerate() {
        let (mut decided, mut spared) = (None, Vec::new());
        let end = tried(&mut rounds[i], job, |round, mut asked| {
            spared = round.keep_last(&mut asked, last);
            let Asked { common, theirs, there } = asked;
            let decided: &mut Decided = decided.insert(round.decide(common, &theirs, there));
            round.carry_out(decided, &mut Turn { flow, at, dones: &mut dones }, at_hand)
        })?;
        flow.send(Message::Done(end.clone()))?;
        ends.push((i, end, (decided, spared)));
    }
    Turn { flow, at: ends.len(), dones: &mut dones }.wait()?;
    let mut again = Vec::new();
    for ((i, own, (decided, spared)), peer) in ends.into_iter().zip(dones) {
        if let (Ok(own), Ok(peer), Some(decided), Ok(round)) = (own, peer, decided, &mut rounds[i]) {
            last.are_safe(&spared);
            if round.is_unsettled(&decided, &own, &peer) && n < ROUNDS {
                again.push(i);
            } else {
                tried(&mut rounds[i], Ok(()), |round, ()| round.level(&own, &peer))?.ok();
            }
        }
    }
    Ok(again)
}

/// The facts of both sides, one's own first.
type Both = (Arc<Facts>, Arc<Facts>);

fn hear_facts(own: Arc<Facts>, said: Message) -> Result<Both> {
    match said {
        Message::Facts(peer) => Ok((own, peer)),
        other => Err(unexpected(&other, "facts")),
    }
}

/// Partial facts get the mails that the other side's name. Where that does not do, all mails are told after all. Both sides come to
/// the same answer.
fn complete(rounds: &mut [Entrant<'_>], jobs: Vec<Job<Both>>, flow: &mut Flow<'_>) -> Result<Vec<Job<Both>>> {
    let is_partial = |job: &Job<Both>| matches!(&job.1, Ok((own, peer)) if own.partial || peer.partial);
    let (partial, mut ready): (Vec<_>, Vec<_>) = jobs.into_iter().partition(is_partial);
    let say = |round: &mut Round<'_>, (own, peer): Both| {
        let own = round.complete(own, &peer)?;
        Ok((Message::Facts(Arc::clone(&own)), own))
    };
    let partial = flight(rounds, partial, flow, say, hear_facts)?;
    let suffices = |(i, job): &Job<Both>| match (&rounds[*i], job) {
        (Ok(round), Ok((own, peer))) => !own.partial && !peer.partial || own.partial && peer.partial && round.suffice(own, peer),
        _ => true,
    };
    let (enough, doubtful): (Vec<_>, Vec<_>) = partial.into_iter().partition(suffices);
    let say = |round: &mut Round<'_>, _| {
        let own = round.begin(false, false)?;
        Ok((Message::Facts(Arc::clone(&own)), own))
    };
    ready.extend(enough);
    ready.extend(flight(rounds, doubtful, flow, say, hear_facts)?);
    ready.sort_by_key(|(i, _)| *i);
    Ok(ready)
}

/// A mailbox of which all is known.
pub(super) struct Asked {
    pub common: Common,
    /// The full GUIDs of the other side's mails in question.
    pub theirs: NewGuids,
    /// Mails whose texts the other side has elsewhere.
    there: Vec<Guid128>,
}

/// One flight. `hear` is given what the other side says.
fn flight<'r, A, B, C>(
    rounds: &mut [Entrant<'r>],
    jobs: Vec<Job<A>>,
    flow: &mut Flow<'_>,
    say: impl Fn(&mut Round<'r>, A) -> mail::Result<(Message, B)>,
    hear: impl Fn(B, Message) -> Result<C>,
) -> Result<Vec<Job<C>>> {
    let mut said = Vec::with_capacity(jobs.len());
    for (i, job) in jobs {
        match tried(&mut rounds[i], job, |round, a| Ok(say(round, a)?))? {
            Ok((message, b)) => {
                flow.send(message)?;
                said.push((i, Some(b)));
            }
            Err(failure) => {
                flow.send(Message::Done(Err(failure)))?;
                said.push((i, None));
            }
        }
    }
    let mut out = Vec::with_capacity(said.len());
    for (i, b) in said {
        match (b, flow.recv()?) {
            // What one side gives up both give up. The other side has said why.
            (None, _) | (Some(_), Message::Done(Err(_))) => {}
            (Some(b), message) => out.push((i, Ok(hear(b, message)?))),
        }
    }
    Ok(out)
}

/// Does something with a mailbox that this side has not given up; when that fails, it has.
fn tried<'r, A, B>(
    entrant: &mut Entrant<'r>,
    job: Outcome<A>,
    act: impl FnOnce(&mut Round<'r>, A) -> Result<B>,
) -> Result<Outcome<B>> {
    let round = match entrant {
        Ok(round) => round,
        Err(failure) => return Ok(Err(failure.clone())),
    };
    round.check_stop()?;
    let result = match job {
        Ok(a) => act(round, a),
        Err(failure) => return Ok(Err(failure)),
    };
    match result {
        Ok(b) => Ok(Ok(b)),
        Err(RoundError::Own(e)) => {
            let failure = Failure::from(&e);
            round.report.failed = Some(e);
            Ok(Err(failure))
        }
        Err(RoundError::Peer(failure)) => Ok(Err(failure)),
        Err(end @ RoundError::End(_)) => Err(end),
    }
}

fn unexpected(got: &Message, wanted: &'static str) -> RoundError {
    LinkError::Unexpected { got: got.kind(), wanted }.into()
}
