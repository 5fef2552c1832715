//! Log lines on standard error as doveadm writes them: `<time><prefix><Type>: <text>` (cli-config.md 6.2).
//!
//! The prefix is that of the innermost span that has a field `prefix`. An event with `fatal = true` is a `Fatal` one.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

/// How much is logged, and how.
#[derive(Debug, Clone, Default)]
pub(super) struct Style {
    /// `-v`
    pub(super) verbose: bool,
    /// `-D`
    pub(super) debug: bool,
    /// `strftime` format of the time in front, if there is one.
    pub(super) stamp: Option<String>,
}

/// From here on `tracing` writes to standard error.
pub(super) fn start(style: Style) {
    let level = match style {
        Style { debug: true, .. } => LevelFilter::DEBUG,
        Style { verbose: true, .. } => LevelFilter::INFO,
        Style { .. } => LevelFilter::WARN,
    };
    let lines = Lines { stamp: style.stamp };
    // A second start, in a test, keeps the first subscriber.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(lines.with_filter(level)));
}

/// One line to standard error, whatever happens to it.
pub(super) fn line(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

struct Lines {
    stamp: Option<String>,
}

/// Kept with a span.
struct Prefix(String);

impl<S: Subscriber + for<'s> LookupSpan<'s>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let (Some(prefix), Some(span)) = (fields.prefix, context.span(id)) {
            span.extensions_mut().insert(Prefix(prefix));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut out = self.stamp.as_deref().map_or_else(String::new, now);
        let spans = context.event_scope(event).into_iter().flatten();
        let prefix = spans.filter_map(|span| span.extensions().get::<Prefix>().map(|p| p.0.clone())).next();
        out.push_str(prefix.as_deref().unwrap_or_default());
        out.push_str(match *event.metadata().level() {
            _ if fields.fatal => "Fatal: ",
            Level::ERROR => "Error: ",
            Level::WARN => "Warning: ",
            Level::INFO => "Info: ",
            _ => "Debug: ",
        });
        push_printable(&mut out, &fields.message);
        line(&out);
    }
}

fn now(format: &str) -> String {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now()).unwrap_or_default()
}

/// Names of mailboxes hold anything; a terminal shall not obey them.
fn push_printable(out: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_control() && c != '\t' {
            let _ = write!(out, "{}", c.escape_default());
        } else {
            out.push(c);
        }
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    prefix: Option<String>,
    fatal: bool,
}

impl Visit for Fields {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.fatal |= value && field.name() == "fatal";
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "prefix" => self.prefix = Some(value.into()),
            "message" => self.message.push_str(value),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        }
    }
}
