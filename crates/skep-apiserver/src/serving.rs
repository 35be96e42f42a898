//! The server's certificate, which is made anew before it expires while connections go on.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use skep_auth::pki::{KeyedCertificate, Pki};

use crate::app::App;
use crate::server::ServeError;

/// How often the certificate's time is looked at. Certificates are made anew weeks before they expire: a day
/// more or less does not matter.
pub(crate) const RENEW_EVERY: Duration = Duration::from_secs(24 * 3600);

/// The certificate that new connections are shown.
#[derive(Debug)]
pub(crate) struct Serving {
    key: ArcSwap<CertifiedKey>,
}

fn certified(pair: &KeyedCertificate) -> Result<CertifiedKey, ServeError> {
    let key = rustls::crypto::ring::sign::any_supported_type(&pair.key())
        .map_err(|e| ServeError::Tls(e.to_string()))?;
    Ok(CertifiedKey::new(vec![pair.certificate().clone()], key))
}

impl Serving {
    pub(crate) fn new(pki: &Pki) -> Result<Serving, ServeError> {
        Ok(Serving { key: ArcSwap::from_pointee(certified(&pki.serving())?) })
    }

    /// Makes the certificate anew if it is about to expire, and shows the new one from then on.
    fn renew(&self, pki: &Pki, now: Timestamp) {
        match pki.renew_serving(now) {
            Ok(None) => {}
            Ok(Some(pair)) => match certified(&pair) {
                Ok(key) => {
                    self.key.store(Arc::new(key));
                    tracing::info!(not_after = %pair.not_after(), "the server's certificate was renewed");
                }
                Err(error) => tracing::error!(%error, "the server's new certificate cannot be used"),
            },
            // The old one is good for some time yet, and the next day may be better.
            Err(error) => tracing::error!(%error, "the server's certificate cannot be renewed"),
        }
    }

    /// Looks after the certificate until the server ends.
    pub(crate) async fn keep_current(self: Arc<Self>, app: Arc<App>, interval: Duration) {
        let mut down = app.shutdown.subscribe();
        loop {
            tokio::select! {
                () = crate::app::ended(&mut down) => return,
                () = tokio::time::sleep(interval) => {}
            }
            let (serving, app) = (self.clone(), app.clone());
            // Making a key and syncing its file takes a while.
            let renewed =
                tokio::task::spawn_blocking(move || serving.renew(&app.pki, Timestamp::now())).await;
            if let Err(error) = renewed {
                tracing::error!(%error, "the server's certificate cannot be renewed");
            }
        }
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.key.load_full())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::ToSpan;

    #[test]
    fn a_certificate_is_replaced_before_it_expires_and_not_earlier() {
        let directory = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        let pki = Pki::open(directory.path(), &[], now).unwrap();
        let serving = Serving::new(&pki).unwrap();
        let shown = || serving.key.load_full().cert[0].clone();
        let first = shown();
        serving.renew(&pki, now + 24.hours());
        assert_eq!(shown(), first, "there is plenty of time");
        let last_day = pki.serving().not_after() - 24.hours();
        serving.renew(&pki, last_day);
        assert_ne!(shown(), first);
        assert_eq!(shown(), *pki.serving().certificate());
        assert!(pki.serving().not_after() > last_day + (24 * 30).hours());
    }
}
