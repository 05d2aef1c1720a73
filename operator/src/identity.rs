//! The CSR service.
