//! The lines of the access log for people, written fast.
//!
//! A node answers tens of thousands of requests a second and logs each, and tracing-subscriber's own format puts every part
//! of a line through the machinery for colours: a fifth of what a hit cost. So these lines are written here where
//! there are no colours. They look the same; a test compares.

use std::fmt::{self, Debug};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{DefaultFields, Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent};
use tracing_subscriber::registry::LookupSpan;

/// Where the lines come from.
pub(super) const TARGET: &str = "coral_proxy::access";

/// Writes lines of the access log itself, and leaves all others, and colours, to the usual format.
#[derive(Debug, Default)]
pub(super) struct Lines {
    usual: Format<Full>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> FormatEvent<S, DefaultFields> for Lines {
    fn format_event(
        &self,
        context: &FmtContext<'_, S, DefaultFields>,
        mut to: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        if metadata.target() != TARGET || to.has_ansi_escapes() {
            return self.usual.format_event(context, to, event);
        }
        write!(to, "{} ", humantime::format_rfc3339_micros(SystemTime::now()))?;
        let level = metadata.level().as_str();
        to.write_str(if level.len() < 5 { " " } else { "" })?;
        to.write_str(level)?;
        to.write_str(" ")?;
        to.write_str(TARGET)?;
        to.write_str(":")?;
        let mut fields = Fields { to, written: Ok(()) };
        event.record(&mut fields);
        fields.written?;
        fields.to.write_str("\n")
    }
}

/// Writes fields as ` name=value`.
struct Fields<'a> {
    to: Writer<'a>,
    written: fmt::Result,
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if self.written.is_ok() {
            self.written = self.write(field, value);
        }
    }
}

impl Fields<'_> {
    fn write(&mut self, field: &Field, value: &dyn Debug) -> fmt::Result {
        self.to.write_str(" ")?;
        self.to.write_str(field.name())?;
        self.to.write_str("=")?;
        write!(self.to, "{value:?}")
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Kept {
        /// What was written, without the time at the beginning of each line.
        fn lines(&self) -> Vec<String> {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            let timeless = |line: &str| {
                let (time, rest) = line.split_once(' ').unwrap();
                assert_eq!((time.len(), humantime::parse_rfc3339(time).is_ok()), (27, true), "{line}");
                rest.to_owned()
            };
            text.lines().map(timeless).collect()
        }
    }

    #[test]
    fn lines_look_as_they_do_in_the_usual_format() {
        let (ours, usual) = (Kept::default(), Kept::default());
        let writer = |kept: &Kept| {
            let kept = kept.clone();
            move || kept.clone()
        };
        let subscriber = tracing_subscriber::registry()
            .with(fmt::layer().with_writer(writer(&ours)).with_ansi(false).event_format(Lines::default()))
            .with(fmt::layer().with_writer(writer(&usual)).with_ansi(false));
        tracing::subscriber::with_default(subscriber, || {
            let error: Option<&str> = None;
            tracing::info!(
                target: TARGET,
                client = %"192.0.2.1:5",
                host = ?"a\"\n",
                uri = %"/",
                status = 200,
                cache = "hit",
                error,
                ms = 7_u64,
            );
            tracing::error!(target: TARGET, error = Some("it"), share = 0.5, whole = true);
            tracing::info!(a = 1, "something else");
        });
        assert_eq!(ours.lines(), usual.lines());
        assert_eq!(ours.lines().len(), 3);
    }
}
