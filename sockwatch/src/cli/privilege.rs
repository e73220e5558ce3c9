//! What live commands drop once they run.

use clap::Args;
use sockwatch::privilege::Sandbox;

/// Whether to drop anything.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SandboxArgs {
    /// Keep all privileges while running: no dropped capabilities, no Landlock, no seccomp. For trouble only; docs/privileges.md
    /// says what each does.
    #[arg(long, help_heading = "Collecting")]
    pub(crate) no_sandbox: bool,
}

impl SandboxArgs {
    /// What was asked for.
    pub(crate) fn wanted(self) -> Sandbox {
        if self.no_sandbox { Sandbox::Off } else { Sandbox::On }
    }
}
