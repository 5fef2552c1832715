//! What a peer can say wrongly (wire.md 3.5), with Dovecot's words where it has some.

/// Something that is not the dsync protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The VERSION line is missing or another one, or something stands before it.
    #[error("Remote dsync doesn't use compatible protocol")]
    Version,
    /// A header line lacks a required column.
    #[error("Remote sent invalid handshake for {kind}: Header missing required field {column}")]
    MissingColumn {
        /// The item.
        kind: &'static str,
        /// The column.
        column: &'static str,
    },
    /// The header block lacks a line.
    #[error("Remote didn't handshake deserializer for {0}")]
    MissingHeader(&'static str),
    /// An empty line.
    #[error("Remote sent an empty line")]
    Empty,
    /// An item nobody knows, or one that has no meaning now.
    #[error("Received unexpected input {got} != {wanted}")]
    Unexpected {
        /// The letter that came.
        got: char,
        /// What should have come.
        wanted: &'static str,
    },
    /// A required value is NULL.
    #[error("Invalid input to {kind}: Missing required field {column}")]
    MissingValue {
        /// The item.
        kind: &'static str,
        /// The column.
        column: &'static str,
    },
    /// A value that cannot be.
    #[error("{kind}: Invalid {column}: {value}")]
    Value {
        /// The item.
        kind: &'static str,
        /// The column.
        column: &'static str,
        /// The value, shortened.
        value: String,
    },
    /// More than anybody needs.
    #[error("Remote sent too many or too long {0}")]
    TooMuch(&'static str),
    /// A stream is not finished.
    #[error("dot-input stream ends without '.' line")]
    StreamCut,
}
