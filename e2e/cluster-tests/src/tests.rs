//! The tests on a real cluster, in the order in which they run.
//!
//! A test is a file `tests/NAME.rs` with `pub async fn run(cx: &Context) -> Result<Figures>` and a line in [`TESTS`].

pub mod admission;
pub mod backup_restore;
pub mod bad_csr;
pub mod bad_mesh;
pub mod cluster;
pub mod cluster_leaves_nothing;
pub mod control_plane_gone;
pub mod cost;
pub mod forty_pods;
pub mod graceful_drain;
pub mod install;
pub mod leader_lost;
pub mod least_authority;
pub mod mesh_deletion;
pub mod metrics;
pub mod no_plaintext_on_the_wire;
pub mod outside_traffic;
pub mod own_cluster;
pub mod pod_shapes;
pub mod probes;
pub mod protocols;
pub mod rotation_abort;
pub mod rotation_emergency;
pub mod rotation_issuer_under_load;
pub mod rotation_root_under_load;
pub mod rotation_sources;
pub mod rotation_with_a_silent_pod;
pub mod standby_replaced;
pub mod strict_and_permissive;
pub mod wrong_server_identity;

use anyhow::Result;
use futures_util::future::BoxFuture;

use crate::context::{Context, Figures};

/// What must be there before a test runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// A cluster of two nodes.
    Cluster,
    /// Also our images on its nodes, and the operator installed.
    Operator,
    /// Also the image of cert-manager's controller on its nodes.
    CertManager,
}

/// On which clusters a test may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// On any that has got our images and that nobody uses a mesh on.
    Anywhere,
    /// On such a one, if it has two nodes.
    TwoNodes,
    /// On the one that was made for it: elsewhere it is skipped, because of this.
    ThrowAway(&'static str),
}

/// One test.
pub struct Test {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it proves, in one line.
    pub proves: &'static str,
    /// What it builds upon.
    pub needs: Needs,
    /// Where it may run.
    pub place: Where,
    /// It fails when it takes longer; three times that in its long form.
    pub minutes: u64,
    /// The test itself.
    pub run: for<'a> fn(&'a Context) -> BoxFuture<'a, Result<Figures>>,
}

macro_rules! test {
    ($module:ident, $needs:ident, $minutes:literal min, $proves:literal) => {
        test!($module, $needs, Where::Anywhere, $minutes min, $proves)
    };
    ($module:ident, $needs:ident, $place:expr, $minutes:literal min, $proves:literal) => {
        Test {
            name: stringify!($module),
            proves: $proves,
            needs: Needs::$needs,
            place: $place,
            minutes: $minutes,
            run: |cx| Box::pin($module::run(cx)),
        }
    };
}

/// It dials pods from outside, or looks at what only this machine's kernel shows.
const ENTERS: Where = Where::ThrowAway("it enters the pod network and the processes of nodes from this machine");
/// All Meshes of a cluster live by the operator's Secrets.
const DESTROYS: Where = Where::ThrowAway("it destroys Secrets that all Meshes of a cluster live by");

/// All of them.
pub const TESTS: &[Test] = &[
    test!(cluster, Cluster, 3 min, "nodes are ready, DNS answers, Services and exec work across nodes"),
    test!(cluster_leaves_nothing, Cluster, Where::ThrowAway("it makes a cluster of its own on this machine"), 5 min, "a second cluster survives a crash of its node and leaves nothing behind"),
    test!(install, Operator, 3 min, "a first user's way: kubectl apply -k, one Mesh with spec {}, a labelled namespace, a pod"),
    test!(protocols, Operator, 4 min, "every protocol passes two sidecars, by mutual TLS between the right identities"),
    test!(strict_and_permissive, Operator, ENTERS, 5 min, "Strict refuses plaintext and foreign identities, Permissive admits; the switch is hot"),
    test!(wrong_server_identity, Operator, 3 min, "a server that proves another identity than its endpoint's is sent no request"),
    test!(probes, Operator, 5 min, "probes and lifecycle hooks of every kind keep their meaning under Strict"),
    test!(pod_shapes, Operator, 5 min, "init containers, Jobs, StatefulSets and the like work, or are refused with the remedy"),
    test!(admission, Operator, DESTROYS, 5 min, "members are asked about and nobody else, whoever restarts the operator or tampers with the webhook's objects"),
    test!(outside_traffic, Operator, 3 min, "API server, nodes, pods outside the mesh and pod addresses are reached as before"),
    test!(no_plaintext_on_the_wire, Operator, ENTERS, 3 min, "an eavesdropper on every node sees nothing of what members say"),
    test!(metrics, Operator, 3 min, "proxies and operator count exactly what happened"),
    test!(graceful_drain, Operator, 4 min, "pods come and go under load and no request fails"),
    test!(standby_replaced, Operator, Where::ThrowAway("it needs a second image of the proxy on the nodes"), 3 min, "a new standby in a running pod: Ready throughout, application untouched"),
    test!(control_plane_gone, Operator, 7 min, "without the operator members reach all that they had reached, as long as their leaves live"),
    test!(leader_lost, Operator, 5 min, "the leader is killed: reconciling goes on within the Lease; deleted, it hands the Lease over"),
    test!(bad_csr, Operator, ENTERS, 3 min, "the CA signs for nobody but the pod whose token is presented"),
    test!(bad_mesh, Operator, DESTROYS, 5 min, "bad input is refused or told with the remedy, and repaired where that is safe"),
    test!(mesh_deletion, Operator, 5 min, "deleting a Mesh in use is held; forced, everything that it made goes"),
    test!(rotation_root_under_load, Operator, ENTERS, 6 min, "a new root under load: no request fails, no stream is lost, nothing restarts"),
    test!(rotation_issuer_under_load, Operator, ENTERS, 5 min, "a new issuing CA under load: no request fails, nothing restarts"),
    test!(rotation_emergency, Operator, ENTERS, 4 min, "a compromised root is gone soon, connections below it are closed, its leaves refused"),
    test!(rotation_abort, Operator, ENTERS, 5 min, "an aborted rotation goes back under load, before and after the new root signs"),
    test!(rotation_sources, CertManager, ENTERS, 8 min, "built-in, Secret, cert-manager and back under load: each move is a rotation"),
    test!(rotation_with_a_silent_pod, Operator, ENTERS, 6 min, "a silent proxy is named and waited for as long as its leaf lives; it comes back alone"),
    test!(backup_restore, Operator, DESTROYS, 4 min, "the authority is lost with Secret, Mesh and operator, and comes back with the same root"),
    test!(cost, Operator, 7 min, "what the mesh costs: memory, CPU and latency, at rest and at 1,000 requests per second"),
    test!(forty_pods, Operator, Where::TwoNodes, 5 min, "forty meshed pods start on two nodes"),
    test!(own_cluster, Operator, Where::ThrowAway("it plays a cluster of the user's"), 6 min, "with KUBECONFIG set, a cluster of the user's is used and spared"),
    // Last: it judges what the operator did in all of them.
    test!(least_authority, Operator, ENTERS, 3 min, "the operator's roles allow what it did, and nothing that it never does"),
];

#[cfg(test)]
mod table {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = TESTS.iter().map(|test| test.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TESTS.len());
    }
}
