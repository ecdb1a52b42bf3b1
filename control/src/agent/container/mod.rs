//! The container of a task, as values: what the engine is asked to make ([`plan`]), and what it
//! says there is ([`Container`]). No I/O.
//!
//! What becomes of each field of a spec, in the order of `ContainerSpec` and `TaskSpec`:
//!
//! | field | on the node |
//! |---|---|
//! | `Image` | pulled, then `Image` |
//! | `Labels` | `Labels`, below those of the swarm |
//! | `Command`, `Args` | `Entrypoint`, `Cmd` |
//! | `Hostname`, `Env` | the same, templates expanded; `DOCKER_RESOURCE_*` is added |
//! | `Dir`, `User` | `WorkingDir`, `User` |
//! | `Groups` | `GroupAdd` |
//! | `Privileges.CredentialSpec` | `SecurityOpt credentialspec=`, which engines on Linux refuse |
//! | `Privileges.SELinuxContext` | `SecurityOpt label=` |
//! | `Privileges.Seccomp`, `AppArmor` | `SecurityOpt seccomp=`, `apparmor=unconfined` |
//! | `Privileges.NoNewPrivileges` | `SecurityOpt no-new-privileges=true` |
//! | `Init`, `StopSignal` | the same |
//! | `TTY`, `OpenStdin` | `Tty`, `OpenStdin` |
//! | `ReadOnly` | `ReadonlyRootfs` |
//! | `Mounts` | `Mounts`; volumes with a driver are made first; `npipe` and `cluster` are refused |
//! | `StopGracePeriod` | time between stop signal and SIGKILL |
//! | `Healthcheck` | the same; the task is RUNNING once healthy |
//! | `Hosts` | `ExtraHosts`, the first name of each |
//! | `DNSConfig` | `Dns` after the swarm's own server, `DnsOptions`, `DnsSearch` |
//! | `Isolation`, `Sysctls`, `Ulimits`, `OomScoreAdj` | the same |
//! | `CapabilityAdd`, `CapabilityDrop` | `CapAdd`, `CapDrop` |
//! | `Resources.Limits` | `Memory`, `NanoCpus`, `PidsLimit` |
//! | `Resources.Reservations` | nothing: they are the scheduler's |
//! | `Resources.SwapBytes` | `MemorySwap`, the memory included |
//! | `Resources.MemorySwappiness` | the same |
//! | `RestartPolicy`, `Placement`, `ForceUpdate`, `Runtime` | nothing; the engine never restarts |
//! | `Networks` | one endpoint each, with the address that the managers gave, or an alias of the engine's |
//! | `LogDriver` | `LogConfig` |

mod files;
mod mounts;
mod observed;
mod plan;

pub use files::{File, FilesError, Payloads, file_mounts, files};
pub use observed::{Container, Health, observe};
pub use plan::{Endpoint, Place, Plan, SpecError, labels, plan};

/// Label that marks every container of a task; its value is empty.
pub const LABEL_TASK: &str = "com.docker.swarm.task";
/// Label with the ID of the task.
pub const LABEL_TASK_ID: &str = "com.docker.swarm.task.id";
/// Label with the ID of the node.
pub const LABEL_NODE_ID: &str = "com.docker.swarm.node.id";
