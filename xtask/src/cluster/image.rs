//! Container images without Docker: a few files on nothing else, as the docker-archive that `ctr images import` reads.
//!
//! Hand-written, since a tar of plain files is one 512-byte header each and nothing else here packs tars. Times and
//! owners are zero: the same files give the same bytes.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sha2::{Digest, Sha256};

/// One executable, and where it lies in the image.
pub(crate) struct Image<'a> {
    /// `localhost/pause:1`; with `imagePullPolicy: Never` no kubelet asks a registry for it.
    pub(crate) name: &'a str,
    pub(crate) executable: &'a Path,
    /// An absolute path directly below the root, since no folder is made for it.
    pub(crate) at: &'a str,
}

impl Image<'_> {
    /// Writes the archive: complete under its name, or not at all.
    pub(crate) fn write(&self, archive: &Path) -> Result<()> {
        ensure!(
            self.at.rfind('/') == Some(0) && self.at.len() > 1,
            "`{}` is not directly below the root",
            self.at
        );
        let partial = archive.with_extension("partial");
        self.write_to(&partial).with_context(|| format!("write the image {}", partial.display()))?;
        fs::rename(&partial, archive)
            .with_context(|| format!("move {} to {}", partial.display(), archive.display()))
    }

    fn write_to(&self, path: &Path) -> Result<()> {
        // The layer's digest is part of what comes before it, so it is written aside first: agnhost has 50 MB.
        let mut layer = tempfile_beside(path)?;
        let mut source = File::open(self.executable)
            .with_context(|| format!("open the executable {}", self.executable.display()))?;
        let size = source.metadata().context("ask for the executable's size")?.len();
        let mut tar = Hashing { inner: BufWriter::new(&mut layer), digest: Sha256::new(), written: 0 };
        tar.write_all(&header(&self.at[1..], size, 0o755)?)?;
        let copied = std::io::copy(&mut source, &mut tar)?;
        ensure!(copied == size, "{} changed while it was read", self.executable.display());
        pad(&mut tar, size)?;
        tar.write_all(&[0; 2 * BLOCK])?;
        tar.flush()?;
        let (layer_digest, layer_size) = (hex(&tar.digest.finalize_reset()), tar.written);
        drop(tar);
        layer.seek(SeekFrom::Start(0))?;

        let config = json!({
            "architecture": architecture(), "os": "linux", "created": "1970-01-01T00:00:00Z",
            "config": { "Entrypoint": [self.at], "Env": ["PATH=/"] },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer_digest}")] },
            "history": [{ "created": "1970-01-01T00:00:00Z" }],
        })
        .to_string();
        let config_name = format!("{}.json", hex(&Sha256::digest(&config)));
        let layer_name = format!("{layer_digest}.tar");
        let manifest =
            json!([{ "Config": config_name, "RepoTags": [self.name], "Layers": [layer_name] }]).to_string();

        let mut archive = BufWriter::new(File::create(path)?);
        entry(&mut archive, &config_name, config.len() as u64, &mut config.as_bytes())?;
        entry(&mut archive, &layer_name, layer_size, &mut layer)?;
        entry(&mut archive, "manifest.json", manifest.len() as u64, &mut manifest.as_bytes())?;
        archive.write_all(&[0; 2 * BLOCK])?;
        archive.into_inner().context("write the last of the archive")?.sync_all()?;
        Ok(())
    }
}

/// tar counts in these.
const BLOCK: usize = 512;

/// A file without a name: gone when it is closed, whatever happens to us.
fn tempfile_beside(path: &Path) -> Result<File> {
    let layer = path.with_extension("layer");
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&layer)?;
    fs::remove_file(&layer)?;
    Ok(file)
}

fn entry(archive: &mut impl Write, name: &str, size: u64, content: &mut impl Read) -> Result<()> {
    archive.write_all(&header(name, size, 0o644)?)?;
    ensure!(std::io::copy(content, archive)? == size, "{name} is not {size} bytes long");
    pad(archive, size)
}

fn pad(archive: &mut impl Write, size: u64) -> Result<()> {
    let rest = usize::try_from(size % BLOCK as u64).context("a remainder below 512")?;
    if rest > 0 {
        archive.write_all(&[0; BLOCK][rest..])?;
    }
    Ok(())
}

/// The ustar header of a plain file of root's.
fn header(name: &str, size: u64, mode: u32) -> Result<[u8; BLOCK]> {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    ensure!(name.len() <= 100, "the name `{name}` is longer than the 100 bytes that tar has for it");
    ensure!(size < 1 << 33, "{name} has {size} bytes, more than tar's 11 octal digits can say");
    put(0, name);
    put(100, &format!("{mode:07o}"));
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{size:011o}"));
    put(136, "00000000000");
    // The sum is taken with blanks in its own place.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar");
    put(263, "00");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

/// As Go, and so every container runtime, calls this machine.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Counts and digests what passes through.
struct Hashing<W> {
    inner: W,
    digest: Sha256,
    written: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.digest.update(&bytes[..count]);
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// What another reader of tars makes of ours.
    fn tar(arguments: &[&str], archive: &Path) -> Vec<u8> {
        let output = Command::new("tar").args(arguments).arg("-f").arg(archive).output().expect("start tar");
        assert!(output.status.success(), "tar: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    #[test]
    fn an_image_is_an_archive_of_its_config_its_layer_and_a_manifest_that_names_both() {
        let folder = std::env::temp_dir().join(format!("weir-image-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("make a folder");
        let executable = folder.join("program");
        fs::write(&executable, [7; 1000]).expect("write a program");
        let archive = folder.join("image.tar");
        let image = Image { name: "localhost/test:1", executable: &executable, at: "/program" };
        image.write(&archive).expect("write the image");

        let whole = folder.join("whole");
        fs::create_dir_all(&whole).expect("make a folder");
        tar(&["-x", "-C", whole.to_str().expect("a path in UTF-8")], &archive);
        let manifest: serde_json::Value =
            serde_json::from_slice(&fs::read(whole.join("manifest.json")).expect("read it"))
                .expect("is JSON");
        assert_eq!(manifest[0]["RepoTags"][0], "localhost/test:1");
        let layer = manifest[0]["Layers"][0].as_str().expect("names a layer");
        let config = manifest[0]["Config"].as_str().expect("names a config");
        let config: serde_json::Value =
            serde_json::from_slice(&fs::read(whole.join(config)).expect("read it")).expect("is JSON");
        let digest = hex(&Sha256::digest(fs::read(whole.join(layer)).expect("read the layer")));
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{digest}"));
        assert_eq!(tar(&["-x", "-O", "program"], &whole.join(layer)), vec![7; 1000]);

        let first = fs::read(&archive).expect("read the image");
        image.write(&archive).expect("write the image again");
        assert_eq!(fs::read(&archive).expect("read the image"), first);
        fs::remove_dir_all(&folder).expect("remove the folder");
    }

    #[test]
    fn a_name_that_tar_cannot_say_is_an_error() {
        let error = header(&"x".repeat(101), 1, 0o644).expect_err("101 bytes are too many");
        assert!(error.to_string().contains("100 bytes"), "{error}");
    }
}
