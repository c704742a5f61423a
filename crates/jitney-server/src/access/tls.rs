//! TLS: which certificate the server shows, and which it wants to see.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use super::watch::Watch;
use crate::config::TlsConfig;
use crate::observe::logging;

/// The TLS of a server, made of files that may change.
#[derive(Debug)]
pub(crate) struct Tls {
    files: TlsConfig,
    watch: Mutex<Watch>,
    config: RwLock<Arc<ServerConfig>>,
}

/// A file of TLS cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("TLS: {}: {message}", path.display())]
pub struct TlsError {
    path: PathBuf,
    message: String,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be read, does not have what it should, or does not fit the others.
    pub(crate) fn new(files: TlsConfig) -> Result<Tls, TlsError> {
        let watched = [&files.cert, &files.key].into_iter();
        let watched = watched.chain(&files.client_ca).cloned();
        Ok(Tls {
            // Before they are read, so that no change is missed.
            watch: Mutex::new(Watch::new(watched.collect())),
            config: RwLock::new(read(&files)?),
            files,
        })
    }

    /// What takes up a new connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&config).into()
    }

    /// Takes what the files have now, if they have changed, for the connections that come. Where they cannot be used, what was before stays.
    /// Blocks as long as reading small files does.
    pub(crate) fn refresh(&self) {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if !watch.changed() {
            return;
        }
        match read(&self.files) {
            Ok(config) => {
                *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
                tracing::info!("the files of TLS were read again");
            }
            Err(error) => tracing::error!(
                error = %logging::one_line(&error.to_string()),
                "the files of TLS have changed and cannot be used; the certificate from before stays"
            ),
        }
    }
}

fn read(files: &TlsConfig) -> Result<Arc<ServerConfig>, TlsError> {
    let TlsConfig {
        cert,
        key,
        client_ca,
    } = files;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| wrong(cert, &error))?;
    let clients = match client_ca {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(path) => {
            let roots = Arc::new(roots(path)?);
            WebPkiClientVerifier::builder_with_provider(roots, provider as Arc<CryptoProvider>)
                .build()
                .map_err(|error| wrong(path, &error))?
        }
    };
    let mut config = versions
        .with_client_cert_verifier(clients)
        .with_single_cert(certificates(cert)?, private_key(key)?)
        .map_err(|error| wrong(cert, &format!("with the key in {}: {error}", key.display())))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = content(path)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(path, &error))?;
    if certificates.is_empty() {
        return Err(wrong(path, &"expected certificates in PEM, found none"));
    }
    Ok(certificates)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&content(path)?)
        .map_err(|error| wrong(path, &format!("expected a private key in PEM: {error}")))
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|error| wrong(path, &error))?;
    }
    Ok(roots)
}

fn content(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error: io::Error| wrong(path, &error))
}

fn wrong(path: &Path, message: &impl ToString) -> TlsError {
    TlsError {
        path: path.to_owned(),
        message: message.to_string(),
    }
}
