//! The custom resources as a user writes them.
//!
//! The types here are the single source of the API: their docs become the field docs of the CRD, their `Default` the
//! schema's defaults, their rules the API server's validation. A field enters together with the feature behind it.
//! This module does no I/O and talks to no cluster.

pub mod byte_size;
pub mod claims;
pub mod duration;
pub mod file;
pub mod retention;
mod schema;
pub mod v1alpha1;
pub mod validate;

use kube::CustomResourceExt;

use v1alpha1::ErrorHandlingPipeline;

/// Renders every CRD of the project as YAML documents, ready for `kubectl apply -f -`.
pub fn crds() -> String {
    let crd = serde_saphyr::to_string(&ErrorHandlingPipeline::crd())
        .expect("a CRD consists of strings, numbers, lists and maps");
    format!("---\n{}\n", crd.trim_end())
}
