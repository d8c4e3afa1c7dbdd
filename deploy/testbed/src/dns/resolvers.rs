//! The configurations of four recursive resolvers: the fake root as their only hint, and otherwise as packaged.
//!
//! Validation of DNSSEC is off, as the fake root is not signed; and they use IPv4 alone, as the nodes do.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use super::ROOT_HINTS;
use crate::map::Resolver;

/// How one resolver is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// The file's name.
    pub file: &'static str,
    /// What is in it.
    pub text: String,
    /// The command that runs the resolver, in the foreground.
    pub command: Vec<String>,
}

/// What makes `resolver` listen at these addresses, and speak from `source`. `directory` is where its files are.
pub fn configuration(resolver: Resolver, listen: &[Ipv4Addr], source: Ipv4Addr, directory: &str) -> Configuration {
    let hints = format!("{directory}/{ROOT_HINTS}");
    let each = |line: &dyn Fn(&Ipv4Addr) -> String| listen.iter().map(line).collect::<String>();
    let listed = |between: &str| listen.iter().map(Ipv4Addr::to_string).collect::<Vec<_>>().join(between);
    let (file, text, command) = match resolver {
        Resolver::Unbound => (
            "unbound.conf",
            format!(
                "server:\n\
                 {}  \
                   outgoing-interface: {source}\n  \
                   access-control: 0.0.0.0/0 allow\n  \
                   root-hints: \"{hints}\"\n  \
                   module-config: \"iterator\"\n  \
                   do-ip6: no\n  \
                   do-daemonize: no\n  \
                   chroot: \"\"\n  \
                   pidfile: \"\"\n  \
                   use-syslog: no\n  \
                   logfile: \"\"\n\
                 remote-control:\n  \
                   control-enable: no\n",
                each(&|ip| format!("  interface: {ip}\n"))
            ),
            format!("unbound -d -c {directory}/unbound.conf"),
        ),
        Resolver::Bind => (
            "named.conf",
            format!(
                "options {{\n  \
                   directory \"/var/cache/bind\";\n  \
                   pid-file none;\n  \
                   session-keyfile none;\n  \
                   listen-on {{ {}; }};\n  \
                   listen-on-v6 {{ none; }};\n  \
                   query-source address {source};\n  \
                   recursion yes;\n  \
                   allow-recursion {{ any; }};\n  \
                   allow-query-cache {{ any; }};\n  \
                   dnssec-validation no;\n\
                 }};\n\
                 controls {{ }};\n\
                 zone \".\" {{ type hint; file \"{hints}\"; }};\n",
                listed("; ")
            ),
            format!("named -g -4 -u bind -c {directory}/named.conf"),
        ),
        Resolver::KnotResolver => (
            "kresd.conf",
            format!(
                "{}\
                 net.ipv6 = false\n\
                 net.outgoing_v4('{source}')\n\
                 modules = {{ 'hints > iterate' }}\n\
                 hints.root_file('{hints}')\n\
                 -- Unsigned, as all of this Internet is.\n\
                 trust_anchors.remove('.')\n\
                 cache.size = 16 * MB\n",
                each(&|ip| format!("net.listen('{ip}', 53, {{ kind = 'dns' }})\n"))
            ),
            format!("kresd -n -c {directory}/kresd.conf /run"),
        ),
        Resolver::PdnsRecursor => (
            "recursor.conf",
            format!(
                "local-address={}\n\
                 query-local-address={source}\n\
                 allow-from=0.0.0.0/0\n\
                 dont-query=\n\
                 hint-file={hints}\n\
                 dnssec=off\n\
                 security-poll-suffix=\n\
                 serve-rfc1918=no\n\
                 socket-dir=/run\n\
                 threads=1\n\
                 disable-syslog=yes\n",
                listed(",")
            ),
            format!("pdns_recursor --daemon=no --config-dir={directory}"),
        ),
    };
    let command = command.split(' ').map(str::to_owned).collect();
    Configuration { file, text, command }
}

/// The same for the resolvers of Debian 13, where they are told otherwise.
pub fn trixie_configuration(
    resolver: Resolver,
    listen: &[Ipv4Addr],
    source: Ipv4Addr,
    directory: &str,
) -> Configuration {
    let mut configuration = configuration(resolver, listen, source, directory);
    if resolver == Resolver::PdnsRecursor {
        // It takes YAML unless it is told.
        configuration.command.push("--enable-old-settings".to_owned());
    }
    configuration
}

/// The file with trust anchors, where a program wants one.
pub const ANCHORS: &str = "anchors";

/// A DS record that a resolver is to trust, whatever is above it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    zone: String,
    /// Tag, algorithm, type of digest.
    numbers: [String; 3],
    digest: String,
}

impl Trust {
    /// That of a record as zone files have it. `None` if it is none.
    pub fn of(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [zone, "IN", "DS", numbers @ .., digest] = &words[..] else { return None };
        let numbers: [&str; 3] = numbers.try_into().ok()?;
        Some(Self { zone: (*zone).to_owned(), numbers: numbers.map(str::to_owned), digest: (*digest).to_owned() })
    }

    /// The same for a key that nobody has.
    pub fn forged(&self) -> Self {
        let turned = |digit: char| if digit == '0' { '1' } else { '0' };
        Self { digest: self.digest.chars().map(turned).collect(), ..self.clone() }
    }

    /// As BIND's programs have it in a file.
    pub fn bind(&self) -> String {
        format!("trust-anchors {{ {} static-ds {} \"{}\"; }};\n", self.zone, self.numbers.join(" "), self.digest)
    }

    fn record(&self) -> String {
        format!("{} IN DS {} {}", self.zone, self.numbers.join(" "), self.digest)
    }

    /// What makes a resolver with this configuration trust it, and validate by it, whose files are in `directory`. The second is what
    /// the file [`ANCHORS`] has there.
    pub fn told(
        &self,
        resolver: Resolver,
        mut configuration: Configuration,
        directory: &str,
    ) -> (Configuration, String) {
        let mut anchors = String::new();
        let record = self.record();
        let text = &mut configuration.text;
        match resolver {
            Resolver::Unbound => {
                *text += &format!("server:\n  module-config: \"validator iterator\"\n  trust-anchor: \"{record}\"\n");
            }
            Resolver::Bind => {
                *text = text.replace("dnssec-validation no;", "dnssec-validation yes;");
                *text += &self.bind();
            }
            Resolver::KnotResolver => *text += &format!("trust_anchors.add('{record}')\n"),
            Resolver::PdnsRecursor => {
                *text = text.replace("dnssec=off", "dnssec=validate");
                *text += &format!("lua-config-file={directory}/{ANCHORS}\n");
                let (numbers, digest) = (self.numbers.join(" "), &self.digest);
                anchors = format!("clearTA()\naddTA('{}', '{numbers} {digest}')\n", self.zone);
            }
        }
        (configuration, anchors)
    }
}

/// The file that makes programs at a host ask the resolver at `address`.
pub fn resolv_conf(address: Ipv4Addr) -> String {
    let mut text = String::new();
    // One attempt of ten seconds: what a client waits for is the resolver's affair, and each query is then counted once.
    let _ = writeln!(text, "nameserver {address}\noptions timeout:10 attempts:1");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_resolver_is_told_whom_to_trust_and_to_validate() {
        let trust = Trust::of("nyud.net. IN DS 7 13 2 00FF").unwrap();
        assert_eq!(Trust::of("nyud.net. IN A 192.0.2.1"), None);
        assert_eq!(trust.forged().record(), "nyud.net. IN DS 7 13 2 1100");
        let address = Ipv4Addr::new(198, 18, 1, 1);
        for (resolver, wanted, off) in [
            (Resolver::Unbound, "validator iterator", None),
            (Resolver::Bind, "dnssec-validation yes;", Some("dnssec-validation no;")),
            (Resolver::KnotResolver, "trust_anchors.add('nyud.net. IN DS 7 13 2 00FF')", None),
            (Resolver::PdnsRecursor, "dnssec=validate\n", Some("dnssec=off")),
        ] {
            let plain = configuration(resolver, &[address], address, "/here");
            let (told, anchors) = trust.told(resolver, plain, "/here");
            assert!(told.text.contains(wanted) && off.is_none_or(|off| !told.text.contains(off)), "{}", told.text);
            assert!(format!("{}{anchors}", told.text).contains("00FF"), "{resolver}");
        }
    }
}
