//! Why the kernel sent a RST: `enum sk_rst_reason`, from 6.10 on. Its numbers move between kernels, so their names are those
//! of the kernel that the numbers come from.

/// The names of a kernel's reasons; empty where it has none, or does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResetReasons(Vec<(u32, String)>);

impl ResetReasons {
    /// From the enumerators and their values, as BTF has them.
    pub fn of(enumerators: impl IntoIterator<Item = (String, u32)>) -> Self {
        let reasons = enumerators.into_iter().filter_map(|(name, number)| {
            // 0 is also what probes report where the kernel gives no reason.
            let name = name.strip_prefix("SK_RST_REASON_").filter(|name| number != 0 && *name != "MAX")?;
            Some((number, name.to_owned()))
        });
        Self(reasons.collect())
    }

    /// Number and name of each.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &str)> {
        self.0.iter().map(|(number, name)| (*number, name.as_str()))
    }

    /// The reason's name without its prefix: `TCP_ABORT_ON_CLOSE`.
    pub fn name(&self, number: u32) -> Option<&str> {
        self.0.iter().find(|(its, _)| *its == number).map(|(_, name)| name.as_str())
    }
}

impl FromIterator<(u32, String)> for ResetReasons {
    /// From numbers and names without their prefix.
    fn from_iter<I: IntoIterator<Item = (u32, String)>>(reasons: I) -> Self {
        Self(reasons.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_named_as_the_kernel_names_them() {
        let names = ["NOT_SPECIFIED", "NO_SOCKET", "TCP_ABORT_ON_CLOSE", "MAX"];
        let numbered = names.iter().zip(0..).map(|(name, number)| (format!("SK_RST_REASON_{name}"), number));
        let reasons = ResetReasons::of(numbered);
        assert_eq!(reasons.name(0), None, "no reason given");
        assert_eq!(reasons.name(2), Some("TCP_ABORT_ON_CLOSE"));
        assert_eq!(reasons.name(3), None, "no reason, but their count");
        assert_eq!(ResetReasons::default().name(2), None);
    }
}
