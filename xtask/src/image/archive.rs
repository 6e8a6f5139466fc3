//! Container images without Docker: a few files on nothing else, in one archive that every tool takes.
//!
//! It is an OCI image layout and a docker-archive at once, over the same blobs: `ctr images import`, `k3s ctr`, `kind load
//! image-archive`, `skopeo` and `docker load` read the one or the other. Hand-written, since a tar of plain files is one
//! 512-byte header each and nothing else here packs tars. Times and owners are zero and files are sorted: the same files
//! give the same bytes.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// An image of one layer.
pub(crate) struct Image<'a> {
    /// `localhost/weir:dev`: where no registry is meant, no kubelet asks one.
    pub(crate) name: &'a str,
    /// What is in it, by its place: absolute paths directly below the root, since no folder is made for them.
    pub(crate) files: Vec<Member<'a>>,
    /// Where it runs something by itself.
    pub(crate) entrypoint: Option<&'a str>,
}

pub(crate) struct Member<'a> {
    pub(crate) at: &'a str,
    pub(crate) source: &'a Path,
    pub(crate) mode: u32,
}

impl Image<'_> {
    /// Writes the archive, complete under its name or not at all. Returns the digest that names this image's content.
    pub(crate) fn write(&self, archive: &Path) -> Result<String> {
        for file in &self.files {
            let direct = file.at.rfind('/') == Some(0) && file.at.len() > 1;
            ensure!(direct, "`{}` is not directly below the root", file.at);
        }
        let partial = archive.with_extension("partial");
        let digest =
            self.write_to(&partial).with_context(|| format!("write the image {}", partial.display()))?;
        fs::rename(&partial, archive)
            .with_context(|| format!("move {} to {}", partial.display(), archive.display()))?;
        Ok(digest)
    }

    fn write_to(&self, path: &Path) -> Result<String> {
        // The layer's digest is part of what comes before it, so it is written aside first: it has tens of megabytes.
        let mut layer_file = nameless_beside(path)?;
        let layer = self.write_layer(&mut layer_file)?;
        layer_file.seek(SeekFrom::Start(0))?;

        let config = Blob::of(&json!({
            "architecture": architecture(), "os": "linux", "created": EPOCH,
            "config": { "Entrypoint": self.entrypoint.map(|path| [path]), "Env": ["PATH=/"] },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", layer.digest)] },
            "history": [{ "created": EPOCH }],
        }));
        let manifest = Blob::of(&json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
            "layers": [layer.descriptor("application/vnd.oci.image.layer.v1.tar")],
        }));
        let mut listed = manifest.descriptor(MANIFEST);
        listed["platform"] = json!({ "architecture": architecture(), "os": "linux" });
        let tag = self.name.rsplit_once(':').map(|(_, tag)| tag);
        listed["annotations"] = json!({
            // containerd takes the whole name from the first, tools that know one image a layout the tag from the second.
            "io.containerd.image.name": self.name, "org.opencontainers.image.ref.name": tag,
        });
        let index = json!({ "schemaVersion": 2, "manifests": [listed] }).to_string();
        let docker = json!([{
            "Config": config.path(), "RepoTags": [self.name], "Layers": [layer.path()],
        }])
        .to_string();
        let layout = json!({ "imageLayoutVersion": "1.0.0" }).to_string();

        let mut archive = BufWriter::new(File::create(path)?);
        let mut text = |name: &str, text: &str| {
            entry(&mut archive, name, 0o644, text.len() as u64, &mut text.as_bytes())
        };
        text("oci-layout", &layout)?;
        text("index.json", &index)?;
        text("manifest.json", &docker)?;
        text(&config.path(), &config.text)?;
        text(&manifest.path(), &manifest.text)?;
        entry(&mut archive, &layer.path(), 0o644, layer.size, &mut layer_file)?;
        archive.write_all(&[0; 2 * BLOCK])?;
        archive.into_inner().context("write the last of the archive")?.sync_all()?;
        Ok(format!("sha256:{}", manifest.digest))
    }

    fn write_layer(&self, into: &mut File) -> Result<Blob> {
        let mut tar = Hashing { inner: BufWriter::new(into), digest: Sha256::new(), written: 0 };
        let mut files: Vec<_> = self.files.iter().collect();
        files.sort_by_key(|file| file.at);
        for file in files {
            let mut source =
                File::open(file.source).with_context(|| format!("open {}", file.source.display()))?;
            let size = source.metadata().context("ask for a file's size")?.len();
            entry(&mut tar, &file.at[1..], file.mode, size, &mut source)
                .with_context(|| format!("pack {}", file.source.display()))?;
        }
        tar.write_all(&[0; 2 * BLOCK])?;
        tar.flush()?;
        Ok(Blob { digest: hex(&tar.digest.finalize_reset()), size: tar.written, text: String::new() })
    }
}

/// No time: what is built twice is the same twice.
const EPOCH: &str = "1970-01-01T00:00:00Z";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Something in the archive that others name by its digest.
struct Blob {
    digest: String,
    size: u64,
    /// Empty for the layer, which is too long to hold.
    text: String,
}

impl Blob {
    fn of(value: &Value) -> Self {
        let text = value.to_string();
        Self { digest: hex(&Sha256::digest(&text)), size: text.len() as u64, text }
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": format!("sha256:{}", self.digest), "size": self.size })
    }
}

/// tar counts in these.
const BLOCK: usize = 512;

/// A file without a name: gone when it is closed, whatever happens to us.
fn nameless_beside(path: &Path) -> Result<File> {
    let layer = path.with_extension("layer");
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&layer)?;
    fs::remove_file(&layer)?;
    Ok(file)
}

fn entry(archive: &mut impl Write, name: &str, mode: u32, size: u64, content: &mut impl Read) -> Result<()> {
    archive.write_all(&header(name, size, mode)?)?;
    ensure!(
        std::io::copy(content, archive)? == size,
        "{name} is not {size} bytes long: it changed meanwhile"
    );
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

    fn read(path: &Path) -> Value {
        serde_json::from_slice(&fs::read(path).expect("read a file")).expect("is JSON")
    }

    /// A folder of this test's own, removed with the value.
    struct Folder(std::path::PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("weir-image-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("make a folder");
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).expect("remove the folder");
        }
    }

    #[test]
    fn both_tables_of_contents_lead_to_the_same_blobs_whose_names_are_their_digests() {
        let folder = Folder::new("blobs");
        let (program, other) = (folder.0.join("program"), folder.0.join("other"));
        fs::write(&program, [7; 1000]).expect("write a program");
        fs::write(&other, "second").expect("write a file");
        let archive = folder.0.join("image.tar");
        let files = vec![
            Member { at: "/program", source: &program, mode: 0o755 },
            Member { at: "/other", source: &other, mode: 0o644 },
        ];
        let image = Image { name: "localhost/test:1", files, entrypoint: Some("/program") };
        let digest = image.write(&archive).expect("write the image");

        let whole = folder.0.join("whole");
        fs::create_dir_all(&whole).expect("make a folder");
        tar(&["-x", "-C", whole.to_str().expect("a path in UTF-8")], &archive);
        for blob in fs::read_dir(whole.join("blobs/sha256")).expect("has blobs") {
            let blob = blob.expect("has blobs").path();
            let content = hex(&Sha256::digest(fs::read(&blob).expect("read a blob")));
            assert_eq!(blob.file_name().expect("a name").to_str(), Some(content.as_str()));
        }
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().expect("a digest");
            whole.join("blobs").join(digest.replace(':', "/"))
        };
        let listed = &read(&whole.join("index.json"))["manifests"][0];
        assert_eq!(listed["digest"], digest);
        assert_eq!(listed["annotations"]["io.containerd.image.name"], "localhost/test:1");
        assert_eq!(listed["annotations"]["org.opencontainers.image.ref.name"], "1");
        let manifest = read(&blob(listed));
        let (config, layer) = (blob(&manifest["config"]), blob(&manifest["layers"][0]));
        assert_eq!(manifest["layers"][0]["digest"], read(&config)["rootfs"]["diff_ids"][0]);
        assert_eq!(read(&config)["config"]["Entrypoint"], json!(["/program"]));
        let docker = &read(&whole.join("manifest.json"))[0];
        assert_eq!(docker["RepoTags"], json!(["localhost/test:1"]));
        assert_eq!(whole.join(docker["Config"].as_str().expect("a path")), config);
        assert_eq!(whole.join(docker["Layers"][0].as_str().expect("a path")), layer);
        assert_eq!(tar(&["-t"], &layer), b"other\nprogram\n", "sorted");
        assert_eq!(tar(&["-x", "-O", "program"], &layer), vec![7; 1000]);
    }

    #[test]
    fn the_same_files_give_the_same_bytes_wherever_and_whenever_they_were_made() {
        let folder = Folder::new("twice");
        let mut archives = Vec::new();
        for (name, order) in [("a", [0, 1]), ("b", [1, 0])] {
            let place = folder.0.join(name);
            fs::create_dir_all(&place).expect("make a folder");
            let sources = [place.join("x"), place.join("y")];
            for source in &sources {
                fs::write(source, source.file_name().expect("a name").as_encoded_bytes()).expect("write");
            }
            let age =
                std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(sources.len() as u64);
            File::open(&sources[order[0]]).and_then(|file| file.set_modified(age)).expect("set a time");
            let at = ["/x", "/y"];
            let member = |i: usize| Member { at: at[i], source: &sources[i], mode: 0o755 };
            let image = Image { name: "localhost/test:1", files: order.map(member).into(), entrypoint: None };
            let archive = place.join("image.tar");
            let digest = image.write(&archive).expect("write the image");
            archives.push((digest, fs::read(&archive).expect("read the image")));
        }
        assert!(archives[0] == archives[1], "{} and {}", archives[0].0, archives[1].0);
    }

    #[test]
    fn a_name_that_tar_cannot_say_is_an_error() {
        let error = header(&"x".repeat(101), 1, 0o644).expect_err("101 bytes are too many");
        assert!(error.to_string().contains("100 bytes"), "{error}");
    }
}
