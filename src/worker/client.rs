//! How HTTP is spoken to users' endpoints and to other workers.

use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder};

/// A client that calls who was named and nobody else: a redirect is an answer like any other, and there is no proxy.
/// `is_plain`: it calls only without TLS, for which an image need not have certificates.
pub fn client(is_plain: bool) -> ClientBuilder {
    let client = Client::builder().redirect(Policy::none()).no_proxy();
    #[cfg(feature = "https")]
    if is_plain {
        return client.tls_certs_only([]);
    }
    #[cfg(not(feature = "https"))]
    let _ = is_plain;
    client
}
