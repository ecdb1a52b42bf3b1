//! The grammar of image references.

/// The longest repository name that registries take.
const NAME_MAX: usize = 255;
/// The longest tag.
const TAG_MAX: usize = 128;

/// Whether the text names an image: `[host[:port]/]path[:tag][@digest]`.
pub fn is_image_reference(text: &str) -> bool {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    if digest.is_some_and(|digest| !is_digest(digest)) {
        return false;
    }
    let after_slash = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[after_slash..].find(':') {
        Some(colon) => {
            let colon = after_slash + colon;
            (&rest[..colon], Some(&rest[colon + 1..]))
        }
        None => (rest, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) || name.len() > NAME_MAX {
        return false;
    }
    // 64 hexadecimal digits are the ID of an image, which no registry resolves.
    if name.len() == 64 && name.bytes().all(|c| c.is_ascii_hexdigit()) {
        return false;
    }
    let path = match name.split_once('/') {
        Some((host, path)) if looks_like_host(host) => {
            if !is_host(host) {
                return false;
            }
            path
        }
        _ => name,
    };
    path.split('/').all(is_path_component)
}

/// Docker's rule for telling a registry from the first part of a path.
fn looks_like_host(part: &str) -> bool {
    part.contains(['.', ':']) || part == "localhost" || part.bytes().any(|c| c.is_ascii_uppercase())
}

fn is_host(host: &str) -> bool {
    let (host, port) = match host.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (host, None),
    };
    let is_label = |label: &str| {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        edge(label.chars().next())
            && edge(label.chars().next_back())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    port.is_none_or(|port| !port.is_empty() && port.bytes().all(|c| c.is_ascii_digit()))
        && host.split('.').all(is_label)
}

/// Lower-case letters and digits, with `.`, `_`, `__` or any number of `-` between them.
fn is_path_component(part: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !part.starts_with(alphanumeric) || !part.ends_with(alphanumeric) {
        return false;
    }
    part.split(alphanumeric)
        .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|c| c == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= TAG_MAX
        && tag.starts_with(word)
        && tag.chars().all(|c| word(c) || c == '.' || c == '-')
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else {
        return false;
    };
    let expected = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    hex.len() == expected
        && hex
            .bytes()
            .all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_told_from_other_text() {
        let digest = format!("nginx@sha256:{}", "0a".repeat(32));
        for good in [
            "nginx",
            "nginx:1.27-alpine",
            "library/nginx",
            "localhost/app:dev",
            "localhost:5000/a/b__c:v1",
            "registry.example.com/team/app-x",
            "a--b/c.d_e",
            &digest,
        ] {
            assert!(is_image_reference(good), "{good}");
        }
        let id = "f".repeat(64);
        for bad in [
            "",
            ":",
            "nginx:",
            "Nginx",
            "a b",
            "a//b",
            "/a",
            "a/",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "nginx@sha256:12",
            "nginx@md5",
            "a:b:c",
            "x/y:z!",
            "re_g.io:x/a",
            &id,
        ] {
            assert!(!is_image_reference(bad), "{bad}");
        }
        assert!(!is_image_reference(&format!("a:{}", "t".repeat(129))));
    }
}
