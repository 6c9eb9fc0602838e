//! An operator's token: it comes from the environment alone. In an argument everybody on the machine could read it.

use http::HeaderValue;
use zeroize::Zeroizing;

use super::super::failure::Failure;

const VARIABLE: &str = "OCTROI_TOKEN";

/// The value of the `Authorization` header.
pub fn bearer() -> Result<HeaderValue, Failure> {
    let text = std::env::var_os(VARIABLE).and_then(|value| value.into_string().ok()).map(Zeroizing::new);
    of(text.as_ref().map_or("", |text| text.as_str()))
}

fn of(token: &str) -> Result<HeaderValue, Failure> {
    let token = token.trim();
    if token.is_empty() {
        return Err(Failure::Usage(format!(
            "--admin needs an operator's token in the environment variable {VARIABLE}; \
             `octroi operator create NAME --right machines:read` on the gateway's machine makes one"
        )));
    }
    let wrong = || Failure::Usage(format!("{VARIABLE} holds no token: a token is of letters, digits and _ only"));
    if !token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err(wrong());
    }
    let mut value = HeaderValue::from_str(&Zeroizing::new(format!("Bearer {token}"))).map_err(|_| wrong())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_word_and_its_absence_says_how_to_get_one() {
        assert_eq!(of(" octroi_op_1\n").unwrap(), "Bearer octroi_op_1");
        assert!(matches!(of(" "), Err(Failure::Usage(text)) if text.contains("octroi operator create")));
        for bad in ["two words", "a\nb", "é"] {
            assert!(matches!(of(bad), Err(Failure::Usage(text)) if !text.contains(bad)), "{bad}");
        }
        assert!(!format!("{:?}", of("octroi_op_1")).contains("op_1"), "it cannot be printed");
    }
}
