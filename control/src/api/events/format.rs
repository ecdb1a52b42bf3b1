//! How a stream of events is written, which clients choose since version 1.52 of the API.

use crate::api::version::ApiVersion;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};

/// One of the ways; all of them have an event in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// As in all versions.
    Json,
    /// `application/jsonl`
    Lines,
    /// `application/x-ndjson`
    NewlineDelimited,
    /// RFC 7464: each line begins with a record separator.
    Sequence,
}

/// Those that can be chosen, by the first version that has them. Of several that a client likes as much, the first.
const CHOICES: [(ApiVersion, Format); 3] = [
    (ApiVersion::new(1, 53), Format::Lines),
    (ApiVersion::new(1, 52), Format::NewlineDelimited),
    (ApiVersion::new(1, 52), Format::Sequence),
];

const RECORD_SEPARATOR: char = '\u{1e}';

impl Format {
    /// That which a request's headers ask for. Taken out of them: the engine's part is always in lines of JSON.
    pub(super) fn choose(headers: &mut HeaderMap, version: ApiVersion) -> Self {
        let accepted: Vec<_> = headers
            .get_all(header::ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(weighed)
            .collect();
        let weight = |format: Self| {
            let same = accepted
                .iter()
                .filter(|(kind, _)| kind == format.content_type());
            same.map(|(_, weight)| *weight).max().unwrap_or(0)
        };
        let mut chosen = (Self::Json, weight(Self::Json));
        for (since, format) in CHOICES {
            let weight = weight(format);
            if version >= since && weight > chosen.1 {
                chosen = (format, weight);
            }
        }
        headers.remove(header::ACCEPT);
        chosen.0
    }

    const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Lines => "application/jsonl",
            Self::NewlineDelimited => "application/x-ndjson",
            Self::Sequence => "application/json-seq",
        }
    }

    /// Says so in a response's headers.
    pub(super) fn name(self, headers: &mut HeaderMap) {
        let name = HeaderValue::from_static(self.content_type());
        headers.insert(header::CONTENT_TYPE, name);
    }

    /// An event of the stream.
    pub(super) fn record(self, mut line: String) -> Bytes {
        if self == Self::Sequence {
            line.insert(0, RECORD_SEPARATOR);
        }
        line.push('\n');
        line.into()
    }
}

/// A kind of content that a client takes, and how much it likes it, in thousandths.
fn weighed(item: &str) -> (String, u16) {
    let mut parts = item.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
    let weight = parts.find_map(|parameter| parameter.strip_prefix("q="));
    let weight = weight.map_or(Some(1.0), |text| text.parse::<f32>().ok());
    // Between 0 and 1: the cast loses nothing that counts.
    let thousandths = (weight.unwrap_or(0.0).clamp(0.0, 1.0) * 1000.0) as u16;
    (kind, thousandths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_choose_among_what_their_version_has() {
        for (minor, accept, format) in [
            (56, "", Format::Json),
            (56, "*/*", Format::Json),
            (56, "application/jsonl", Format::Lines),
            (52, "application/jsonl", Format::Json),
            (
                52,
                "application/jsonl, application/x-ndjson;q=0.9, application/json-seq;q=0.5",
                Format::NewlineDelimited,
            ),
            (
                53,
                "application/json-seq, Application/JSONL;q=0.9",
                Format::Sequence,
            ),
            (
                53,
                "application/json-seq;q=0, application/json;q=0.1",
                Format::Json,
            ),
            (51, "application/json-seq", Format::Json),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            let chosen = Format::choose(&mut headers, ApiVersion::new(1, minor));
            assert_eq!(chosen, format, "1.{minor} {accept}");
            assert!(headers.is_empty(), "the engine is asked for lines");
        }
        assert_eq!(Format::Lines.record("{}".into()), "{}\n");
        assert_eq!(Format::Sequence.record("{}".into()), "\u{1e}{}\n");
    }
}
