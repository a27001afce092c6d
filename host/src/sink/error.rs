//! Why ReductStore didn't carry a request out, in a few classes that say what to do about it.
//!
//! Guarantees: an answer that something between the host and the store gave is told from one of ReductStore, which
//! always says what is wrong in a header of its own; each class names its remedy.

use reduct_rs::{ErrorCode, ReductError};
use thiserror::Error;

use super::unreachable;

/// Why a request, or one record of it, wasn't carried out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The timestamp is occupied, perhaps by this very record, perhaps by an unfinished one.
    #[error("the timestamp is occupied: {0}")]
    Conflict(String),
    /// The server will never accept this; of a batch, at least one record is to blame.
    #[error("refused as invalid: {0}")]
    Invalid(String),
    /// The request is larger than the server, or a proxy before it, takes.
    #[error("the request is too large: {0}")]
    TooLarge(String),
    /// Something before the server refuses the request, probably for its size (400 or 422 without ReductStore's text).
    #[error("the request is refused, probably as too large: {0}")]
    Doubtful(String),
    /// The bucket or the entry isn't there.
    #[error("not found: {0}")]
    NotFound(String),
    /// 401: the token isn't known, or isn't any more.
    #[error("the token is refused: {0}")]
    Unauthorized(String),
    /// 403: the token may not do this.
    #[error("the token is refused: {0}")]
    Denied(String),
    /// The store, or this copy of it, takes no writes.
    #[error("the store is read-only: {0}")]
    ReadOnly(String),
    /// The disk or the bucket's quota is full.
    #[error("the store is full: {0}")]
    Full(String),
    /// The server is too old, or isn't a ReductStore.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// The server failed at it (500).
    #[error("the store failed: {0}")]
    Failed(String),
    /// Away, starting, busy or slow: the same request may succeed later.
    #[error("{0}")]
    Unavailable(String),
}

/// In the text of a request that timed out though something listens at the store's address.
pub(super) const HANGS: &str = "accepts connections but has not answered";

impl StoreError {
    /// What to do about a store that doesn't answer.
    pub(super) const HANGS_REMEDY: &str =
        "see whether its process is stopped, overloaded or waits for its disk, and restart it if need be";

    /// The name of its class in the metrics.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Conflict(_) => "conflict",
            Self::Invalid(_) => "invalid",
            Self::TooLarge(_) => "too-large",
            Self::Doubtful(_) => "doubtful",
            Self::NotFound(_) => "not-found",
            Self::Unauthorized(_) => "unauthorized",
            Self::Denied(_) => "denied",
            Self::ReadOnly(_) => "read-only",
            Self::Full(_) => "full",
            Self::Unsupported(_) => "unsupported",
            Self::Failed(_) => "failed",
            Self::Unavailable(_) => "unavailable",
        }
    }

    /// What can be done about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Conflict(_) => "nothing: the record is placed again",
            Self::Invalid(_) => "see what the store says of the record",
            Self::TooLarge(_) | Self::Doubtful(_) => {
                "where a proxy stands before ReductStore, raise its limits for a request's body (nginx: \
                 client_max_body_size) and headers (nginx: large_client_header_buffers, HAProxy: tune.bufsize)"
            }
            Self::NotFound(_) => "check store.bucket; creating it needs a token with full access",
            Self::Unauthorized(_) | Self::Denied(_) => {
                "check store.token or store.token_file: it needs read and write access to the bucket"
            }
            Self::ReadOnly(_) => "set store.url to the server that takes writes",
            Self::Full(reason) if reason.to_ascii_lowercase().contains("quota") => {
                "raise the bucket's quota, or remove records from it"
            }
            Self::Full(_) => "free space on the disk that has ReductStore's data",
            Self::Unsupported(_) => "check store.url, and update ReductStore",
            Self::Failed(_) => "see the store's log",
            Self::Unavailable(text) if text.contains(HANGS) => Self::HANGS_REMEDY,
            Self::Unavailable(text) => unreachable::remedy_in(text)
                .unwrap_or("check store.url, that ReductStore runs, and that it can be reached from here"),
        }
    }

    /// Whether the store may have crashed at the request, so that nothing is committed before somebody has looked. What it
    /// refuses by an answer means no crash.
    pub(super) fn may_mean_a_crash(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Failed(_))
    }

    /// Whether the answer says nothing about the store's condition, only about this request.
    pub(super) fn concerns_only_the_record(&self) -> bool {
        matches!(self, Self::Conflict(_) | Self::Invalid(_) | Self::TooLarge(_) | Self::Doubtful(_) | Self::Failed(_))
    }
}

/// What the client puts into an error whose answer has none of ReductStore's text.
const NO_TEXT: &str = "Unknown";

/// Sources: the server's and the client's error codes, read and tried (`reduct-base` 1.21, `error.rs`).
pub(super) fn classify(error: &ReductError) -> StoreError {
    use ErrorCode as Code;
    let message = error.message.as_str();
    let text = match (error.status, origin_in(message)) {
        (Code::ConnectionError, Some(origin)) => format!("no connection to {origin}"),
        _ => format!("{message} ({})", code(error.status)),
    };
    let not_the_stores = || format!("the answer is {}, and not ReductStore's", code(error.status));
    match error.status {
        // A bucket or an entry that is being deleted answers 409 too.
        Code::Conflict if message.contains("being deleted") => StoreError::Unavailable(text),
        Code::Conflict => StoreError::Conflict(text),
        // nginx and HAProxy answer 400 to headers that don't fit into their buffers.
        Code::BadRequest | Code::UnprocessableEntity if message == NO_TEXT => StoreError::Doubtful(not_the_stores()),
        Code::PayloadTooLarge | Code::RequestHeaderFieldsTooLarge | Code::URITooLong if message == NO_TEXT => {
            StoreError::TooLarge(not_the_stores())
        }
        Code::PayloadTooLarge | Code::RequestHeaderFieldsTooLarge | Code::URITooLong => StoreError::TooLarge(text),
        Code::UnprocessableEntity | Code::UrlParseError | Code::InvalidRequest => StoreError::Invalid(text),
        // The client's own, for a URL that an entry's name makes impossible.
        Code::Unknown if message.contains("builder error") => StoreError::Invalid(text),
        Code::BadRequest if message.contains("Quota") => StoreError::Full(text),
        Code::InternalServerError if message.contains("keep quota") => StoreError::Full(text),
        Code::InsufficientStorage => StoreError::Full(text),
        Code::NotFound => StoreError::NotFound(text),
        Code::MethodNotAllowed => {
            StoreError::Unsupported(format!("{text}; ReductStore {} or newer is needed", super::store::OLDEST))
        }
        Code::Unauthorized => StoreError::Unauthorized(text),
        Code::Forbidden if message.to_ascii_lowercase().contains("read-only") => StoreError::ReadOnly(text),
        Code::Forbidden => StoreError::Denied(text),
        Code::InternalServerError if message != NO_TEXT => StoreError::Failed(text),
        // 400 is a body that stopped, other 5xx and 429 are the server's state; a negative code is the client's: no
        // connection, a timeout, a keep-alive connection that was closed.
        _ => StoreError::Unavailable(text),
    }
}

/// The server in the client's message about a connection that failed, which names the whole address of the request and no cause.
fn origin_in(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("error sending request for url (")?;
    let url = url::Url::parse(rest.split(')').next()?).ok()?;
    Some(url.origin().ascii_serialization())
}

fn code(status: ErrorCode) -> String {
    match status {
        ErrorCode::ConnectionError => "no connection".into(),
        ErrorCode::Timeout => "timeout".into(),
        status if (status as i16) < 0 => "client".into(),
        status => (status as i16).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_classified() {
        use ErrorCode as Code;
        let of = |code, text: &str| classify(&ReductError::new(code, text));
        assert!(matches!(of(Code::Conflict, "A record with timestamp 1 already exists"), StoreError::Conflict(_)));
        assert!(matches!(of(Code::Conflict, "Bucket 'b' is being deleted"), StoreError::Unavailable(_)));
        assert!(matches!(of(Code::BadRequest, "Quota of 'b' exceeded"), StoreError::Full(_)));
        assert!(matches!(of(Code::InternalServerError, "Failed to keep quota of 'b'"), StoreError::Full(_)));
        assert!(matches!(of(Code::BadRequest, "Timeout while receiving data"), StoreError::Unavailable(_)));
        assert!(matches!(of(Code::UnprocessableEntity, "x"), StoreError::Invalid(_)));
        assert!(matches!(of(Code::Unauthorized, "x"), StoreError::Unauthorized(_)));
        assert!(matches!(of(Code::Forbidden, "x"), StoreError::Denied(_)));
        assert!(matches!(of(Code::Forbidden, "Cannot do this in read-only mode"), StoreError::ReadOnly(_)));
        assert!(matches!(of(Code::InsufficientStorage, "x"), StoreError::Full(_)));
        assert!(matches!(of(Code::InternalServerError, "File name too long"), StoreError::Failed(_)));
        assert!(matches!(of(Code::BadGateway, "Unknown"), StoreError::Unavailable(_)));
        assert_eq!(of(Code::ConnectionError, "x").to_string(), "x (no connection)");
        let refused =
            of(Code::ConnectionError, "error sending request for url (http://store:8383/api/v1/b/kafka/camera/0/q)");
        assert_eq!(refused.to_string(), "no connection to http://store:8383");
    }

    #[test]
    fn a_full_disk_and_a_full_quota_have_remedies_of_their_own() {
        let remedy = |code, text: &str| classify(&ReductError::new(code, text)).remedy();
        assert!(remedy(ErrorCode::BadRequest, "Quota of 'b' exceeded").starts_with("raise the bucket's quota"));
        let full_disk = remedy(ErrorCode::InsufficientStorage, "Not enough space on the disk");
        assert!(full_disk.contains("disk") && !full_disk.contains("quota"), "{full_disk}");
    }

    /// Each of these goes on for as long as its cause does; with the gate closed no partition would commit anything.
    #[test]
    fn refusals_close_no_commit_gate() {
        let refusals = [
            (ErrorCode::BadRequest, "Quota of 'b' exceeded"),
            (ErrorCode::Unauthorized, "x"),
            (ErrorCode::Forbidden, "Cannot do this in read-only mode"),
            (ErrorCode::UnprocessableEntity, "x"),
            (ErrorCode::NotFound, "x"),
            (ErrorCode::Conflict, "A record with timestamp 1 already exists"),
        ];
        for (code, text) in refusals {
            assert!(!classify(&ReductError::new(code, text)).may_mean_a_crash(), "{code:?} {text}");
        }
        for code in [ErrorCode::ConnectionError, ErrorCode::Timeout, ErrorCode::Unknown, ErrorCode::InternalServerError]
        {
            assert!(classify(&ReductError::new(code, "x")).may_mean_a_crash(), "{code:?}");
        }
    }

    /// A proxy before the store answers without ReductStore's text.
    #[test]
    fn what_a_proxy_refuses_is_too_large() {
        for code in [
            ErrorCode::BadRequest,
            ErrorCode::PayloadTooLarge,
            ErrorCode::URITooLong,
            ErrorCode::RequestHeaderFieldsTooLarge,
            ErrorCode::UnprocessableEntity,
        ] {
            let error = classify(&ReductError::new(code, "Unknown"));
            assert!(matches!(error, StoreError::TooLarge(_) | StoreError::Doubtful(_)), "{code:?}: {error}");
        }
    }
}
