//! A pod whose proxy has fallen silent: both slots are stopped where they stand, as on a node that hangs, and go on when thawed.

use anyhow::{Result, ensure};
use bowline_proxy::contract::bootstrap::SLOTS;
use k8s_openapi::api::core::v1::Pod;
use rustix::process::{Pid, Signal, kill_process};

use super::process;
use crate::context::pods;

/// Frozen for as long as it lives, so that a test that fails leaves nobody frozen.
pub struct Frozen {
    slots: Vec<Pid>,
}

impl Frozen {
    /// Stops the slots of a pod; its application goes on.
    ///
    /// # Errors
    /// When they do not run on this machine.
    pub fn new(pod: &Pod) -> Result<Self> {
        let mut frozen = Self { slots: vec![] };
        for slot in SLOTS {
            let pids = process::of(process::status(pod, slot)?)?;
            ensure!(!pids.is_empty(), "{slot} of {} does not run on this machine: unset KUBECONFIG", pods::name(pod));
            for pid in pids {
                kill_process(pid, Signal::STOP)?;
                frozen.slots.push(pid);
            }
        }
        Ok(frozen)
    }

    /// Lets them go on.
    pub fn thaw(self) {}
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in &self.slots {
            // One that is gone needs no thawing.
            let _ = kill_process(*pid, Signal::CONT);
        }
    }
}
