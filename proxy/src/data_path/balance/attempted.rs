//! The endpoints that a request was sent to in vain.

use std::rc::Rc;

use crate::data_path::connect::endpoint::Endpoint;

/// See the module.
#[derive(Default)]
pub(crate) struct Attempted(Vec<*const Endpoint>);

impl Attempted {
    pub(crate) fn contains(&self, endpoint: &Rc<Endpoint>) -> bool {
        self.0.contains(&Rc::as_ptr(endpoint))
    }

    pub(crate) fn add(&mut self, endpoint: &Rc<Endpoint>) {
        self.0.push(Rc::as_ptr(endpoint));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
