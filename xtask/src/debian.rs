//! Debian packages without installing them: fetched with a private apt configuration, unpacked into the cache.
//!
//! Mirror and key are those of the machine's own sources; only the suite may be another one. Nothing on the system is
//! changed, and no root is needed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{process, setup, workspace};

/// Unpacks `package` into the folder `into`: of the machine's own suites, or of the first of `suites` that has the
/// wanted version (`1.95.0` fits `1.95.0+dfsg1-1`).
pub(crate) fn unpack(package: &str, version: Option<&str>, suites: &[&str], into: &Path) -> Result<()> {
    let mut apt = Apt::new()?;
    let wanted = match version {
        None => {
            apt.update(&format!("set-up: asking Debian for {package}"))?;
            package.to_owned()
        }
        Some(version) => apt.find(package, version, suites, fits)?,
    };
    apt.unpack(&format!("Debian's {wanted}"), &[wanted], into)
}

/// Unpacks `packages`, all in one version of the line `line` (`1.26` has 1.26.10-1), of the first of `suites` that has the
/// first of them. For what Debian's mirrors keep only the newest version of.
pub(crate) fn unpack_line(packages: &[&str], line: &str, suites: &[&str], into: &Path) -> Result<()> {
    let mut apt = Apt::new()?;
    let first = packages.first().context("no package to unpack")?;
    let found = apt.find(first, line, suites, of_line)?;
    let version = found.split_once('=').map(|(_, version)| version).context("apt named no version")?;
    let wanted: Vec<String> = packages.iter().map(|package| format!("{package}={version}")).collect();
    apt.unpack(&format!("Debian's {found}"), &wanted, into)
}

/// Unpacks `package` of the machine's own suites into the folder `into`, and with it whatever it needs that is not
/// installed on this machine.
pub(crate) fn unpack_with_needs(package: &str, into: &Path) -> Result<()> {
    let apt = Apt::new()?;
    apt.update(&format!("set-up: asking Debian for {package}"))?;
    let mut wanted = apt.missing(package)?;
    if wanted.is_empty() {
        // It is installed. One of our own is no other's to remove.
        wanted.push(package.to_owned());
    }
    apt.unpack(&format!("Debian's {package} and what it needs"), &wanted, into)
}

/// apt with state and cache of its own.
struct Apt {
    folder: PathBuf,
    /// The one source to use instead of the machine's.
    source: Option<PathBuf>,
}

impl Apt {
    fn new() -> Result<Self> {
        let folder = workspace::cache()?.join("apt");
        for part in ["lists/partial", "archives/partial"] {
            let path = folder.join(part);
            std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        }
        Ok(Self { folder, source: None })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let mut option = |name: &str, value: &Path| {
            command.arg("-o").arg(format!("{name}={}", value.display()));
        };
        option("Dir::State::lists", &self.folder.join("lists"));
        option("Dir::Cache", &self.folder);
        option("Acquire::Languages", Path::new("none"));
        // Root's apt would hand downloads to the user `_apt`, who may not see the cache folder.
        option("APT::Sandbox::User", Path::new("root"));
        if let Some(source) = &self.source {
            option("Dir::Etc::sourcelist", source);
            option("Dir::Etc::sourceparts", Path::new("-"));
        }
        command
    }

    fn update(&self, label: &str) -> Result<()> {
        process::quietly(label, &self.folder.join("update.log"), self.command("apt-get").arg("update"))
    }

    /// Downloads packages (`name` or `name=version`) and unpacks them, all into one folder.
    fn unpack(&self, label: &str, wanted: &[String], into: &Path) -> Result<()> {
        let folder = self.folder.join("download");
        setup::remove_folder(&folder)?;
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let mut download = self.command("apt-get");
        download.arg("download").args(wanted).current_dir(&folder);
        let log = self.folder.join("download.log");
        process::quietly(&format!("set-up: fetching {label}"), &log, &mut download)?;

        let partial = into.with_extension("partial");
        setup::remove_folder(&partial)?;
        let mut unpacked = 0;
        for file in std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let file = file.with_context(|| format!("list {}", folder.display()))?.path();
            process::output(Command::new("dpkg").arg("-x").arg(&file).arg(&partial))?;
            unpacked += 1;
        }
        ensure!(unpacked == wanted.len(), "apt-get downloaded {unpacked} of {}", wanted.join(", "));
        setup::remove_folder(into)?;
        std::fs::rename(&partial, into)
            .with_context(|| format!("move {} to {}", partial.display(), into.display()))?;
        setup::remove_folder(&folder)
    }

    /// `package=version` of everything that installing `package` on this machine would add.
    fn missing(&self, package: &str) -> Result<Vec<String>> {
        let mut simulate = self.command("apt-get");
        simulate.args(["install", "--simulate", "--no-install-recommends", package]);
        let plan = process::output(&mut simulate)?;
        Ok(plan.lines().filter_map(to_be_installed).collect())
    }

    /// `package=version` in the first suite that has one that `fits` the wanted version.
    fn find(
        &mut self,
        package: &str,
        version: &str,
        suites: &[&str],
        fits: fn(&str, &str) -> bool,
    ) -> Result<String> {
        let mirror = Mirror::of_this_machine()?;
        for suite in suites {
            let source = self.folder.join(format!("{suite}.list"));
            let line = format!("deb [{}] {} {suite} main\n", mirror.options, mirror.uri);
            std::fs::write(&source, line).with_context(|| format!("write {}", source.display()))?;
            self.source = Some(source);
            self.update(&format!("set-up: asking Debian's {suite} for {package} {version}"))?;
            let known = process::output(self.command("apt-cache").args(["madison", package]))?;
            if let Some(found) =
                known.lines().filter_map(|line| line.split('|').nth(1)).find(|it| fits(it, version))
            {
                return Ok(format!("{package}={}", found.trim()));
            }
        }
        bail!("Debian's {} have no {package} {version}", suites.join(", "))
    }
}

/// What one line of a simulated installation adds: `Inst libogg0 (1.3.5-3 Debian:12.15/oldstable [amd64])`.
fn to_be_installed(line: &str) -> Option<String> {
    let rest = line.strip_prefix("Inst ")?;
    let (name, rest) = rest.split_once(' ')?;
    // An older version of it may stand before the parenthesis: `[1.2-3] (1.3.5-3 …`.
    let (_, new) = rest.split_once('(')?;
    Some(format!("{name}={}", new.split(' ').next()?))
}

/// Whether Debian's version is a packaging of upstream's: `1.95.0+dfsg1-1` of `1.95.0`, but not of `1.95`.
fn fits(debian: &str, upstream: &str) -> bool {
    let rest = debian.trim().strip_prefix(upstream);
    rest.is_some_and(|rest| !rest.starts_with(|next: char| next == '.' || next.is_ascii_digit()))
}

/// Whether Debian's version belongs to upstream's line: `1.26.10-1` to `1.26`, but not to `1.2`.
fn of_line(debian: &str, line: &str) -> bool {
    let rest = debian.trim().strip_prefix(line);
    rest.is_some_and(|rest| rest.starts_with(|next: char| ".-+~".contains(next)))
}

/// Where this machine gets Debian from, and how it knows that it is Debian.
#[derive(Debug, PartialEq, Eq)]
struct Mirror {
    uri: String,
    /// The options of a one-line source: `signed-by=/…`.
    options: String,
}

impl Mirror {
    fn of_this_machine() -> Result<Self> {
        let release = std::fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
        let codename = release
            .lines()
            .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
            .context("this is no Debian: /etc/os-release has no VERSION_CODENAME")?;
        let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
        if let Ok(entries) = std::fs::read_dir("/etc/apt/sources.list.d") {
            files.extend(entries.filter_map(|entry| entry.ok().map(|entry| entry.path())));
        }
        let texts = files.iter().filter_map(|file| std::fs::read_to_string(file).ok());
        let mut mirrors = texts.filter_map(|text| Self::in_source(&text, codename));
        mirrors.next().with_context(|| format!("no source of apt has the suite {codename}"))
    }

    /// The mirror of the suite `codename` in an apt source of either format.
    fn in_source(text: &str, codename: &str) -> Option<Self> {
        let stanzas = text.split("\n\n").filter_map(|stanza| {
            let field = |name: &str| {
                stanza.lines().find_map(|line| {
                    let (key, value) = line.split_once(':')?;
                    key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
                })
            };
            let suites = field("Suites")?;
            suites.split_whitespace().find(|suite| *suite == codename)?;
            let options = field("Signed-By").map(|key| format!("signed-by={key}")).unwrap_or_default();
            Some(Self { uri: field("URIs")?.split_whitespace().next()?.to_owned(), options })
        });
        let lines = text.lines().filter_map(|line| {
            let rest = line.trim().strip_prefix("deb ")?.trim_start();
            let (options, rest) = match rest.strip_prefix('[') {
                Some(rest) => rest.split_once(']')?,
                None => ("", rest),
            };
            let mut words = rest.split_whitespace();
            let uri = words.next()?.to_owned();
            (words.next()? == codename).then(|| Self { uri, options: options.trim().to_owned() })
        });
        stanzas.chain(lines).next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_found_in_both_formats_of_apt_sources() {
        let stanzas = "Types: deb\nURIs: http://other.example/x\nSuites: nodistro\n\n\
            Types: deb\n# a note\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\
            Components: main\nSigned-By: /usr/share/keyrings/key.gpg\n";
        let expected = Mirror {
            uri: "http://mirror.example/debian".into(),
            options: "signed-by=/usr/share/keyrings/key.gpg".into(),
        };
        assert_eq!(Mirror::in_source(stanzas, "bookworm"), Some(expected));
        let line =
            "# deb http://no.example x main\ndeb [arch=amd64] http://mirror.example/debian trixie main\n";
        let expected = Mirror { uri: "http://mirror.example/debian".into(), options: "arch=amd64".into() };
        assert_eq!(Mirror::in_source(line, "trixie"), Some(expected));
        assert_eq!(Mirror::in_source(line, "bookworm"), None);
    }

    #[test]
    fn what_a_simulated_installation_adds_is_read_from_its_lines() {
        let name = |line| to_be_installed(line).unwrap_or_default();
        assert_eq!(name("Inst libogg0 (1.3.5-3 Debian:12.15/oldstable [amd64])"), "libogg0=1.3.5-3");
        assert_eq!(name("Inst libnss3 [2:3.87-1] (2:3.90-1 Debian-Security:12 [amd64])"), "libnss3=2:3.90-1");
        assert_eq!(name("Conf libogg0 (1.3.5-3 Debian:12.15/oldstable [amd64])"), "");
    }

    #[test]
    fn a_version_of_debian_fits_only_exactly_its_upstream_version() {
        assert!(fits(" 1.95.0+dfsg1-1~bpo13+1 ", "1.95.0"));
        assert!(fits("1.95.0", "1.95.0"));
        assert!(!fits("1.95.01-1", "1.95.0"));
        assert!(!fits("1.95.0-1", "1.95"));
        assert!(!fits("1.63.0+dfsg1-2", "1.95.0"));
    }

    #[test]
    fn a_version_of_debian_is_of_the_line_that_it_begins_with() {
        assert!(of_line(" 1.26.10-1~bpo13+1 ", "1.26"));
        assert!(of_line("1.26-1", "1.26"));
        assert!(!of_line("1.26.10-1", "1.2"));
        assert!(!of_line("1.27~1", "1.26"));
    }
}
