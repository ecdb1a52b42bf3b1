//! Work that blocks, on threads where that hurts nobody.

use std::io;

/// Runs `work` on such a thread. It is done to its end even if nobody waits for it any more.
///
/// # Errors
/// Those of `work`, and that it panicked.
pub async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<io::Error> + Send + 'static,
{
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error() {
        assert_eq!(blocking(|| Ok::<_, io::Error>(1)).await.unwrap(), 1);
        let refused = blocking(|| Err::<(), _>(io::ErrorKind::NotFound.into())).await;
        let refused: io::Error = refused.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::NotFound);
        let broken = blocking(|| -> io::Result<()> { panic!("on purpose") }).await;
        assert!(broken.unwrap_err().to_string().contains("panic"));
    }
}
