//! The images that the containers of a testbed are made of.
//!
//! None is pulled. The node's is the last stage of `deploy/Dockerfile`, from a tree that `deploy/image-root` lays out on
//! this machine; the others are Debian packages on a base made by debootstrap. Those are kept between runs: the tag is a hash
//! of all that went into the image, so that a recipe that changes builds a new one and the old one is removed.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};

use crate::command;

mod debian;

/// The names of the images, with their tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    /// A node.
    pub node: String,
    /// Web server, name server and tools.
    pub tools: String,
    /// The tools and four resolvers.
    pub resolvers: String,
}

/// An image of Debian packages.
#[derive(Debug)]
struct Recipe {
    name: &'static str,
    dockerfile: &'static str,
}

const TOOLS: Recipe = Recipe { name: "coral-testbed-tools", dockerfile: include_str!("../images/tools.Dockerfile") };
const RESOLVERS: Recipe =
    Recipe { name: "coral-testbed-resolvers", dockerfile: include_str!("../images/resolvers.Dockerfile") };
const TRIXIE_RESOLVERS: Recipe =
    Recipe { name: "coral-testbed-resolvers-trixie", dockerfile: include_str!("../images/resolvers.Dockerfile") };
const JUDGES: Recipe = Recipe { name: "coral-testbed-judges", dockerfile: include_str!("../images/judges.Dockerfile") };
const BROWSER: Recipe =
    Recipe { name: "coral-testbed-browser", dockerfile: include_str!("../images/browser.Dockerfile") };

const NODE: &str = "coral-testbed-node";
const BASE: &str = "coral-testbed-base";
const TRIXIE_BASE: &str = "coral-testbed-base-trixie";
/// Built by `.ci/service`.
const SYSTEMD: &str = "coral-testbed-systemd";

/// Raised when what [`debian`] puts into the base changes.
const BASE_VERSION: u32 = 1;

/// Builds what is missing of the images that each testbed needs. `source` is the root of this project.
///
/// # Errors
///
/// If a build fails: with the last lines that the builder said.
pub async fn build(source: &Path) -> anyhow::Result<Images> {
    let node = node(source).await?;
    Ok(Images { node, tools: tools().await?, resolvers: resolvers().await? })
}

/// The name of the tools' image, which is built if it is missing.
///
/// # Errors
///
/// As [`build`].
pub async fn tools() -> anyhow::Result<String> {
    layer(&TOOLS, &base().await?).await
}

/// The name of the resolvers' image, which is built if it is missing.
///
/// # Errors
///
/// As [`build`].
pub async fn resolvers() -> anyhow::Result<String> {
    layer(&RESOLVERS, &tools().await?).await
}

/// The name of the image with Debian 13's resolvers, which is built if it is missing. Nothing else needs it, so nothing else builds it.
///
/// # Errors
///
/// As [`build`].
pub async fn trixie_resolvers() -> anyhow::Result<String> {
    let apt = debian::Apt::of_this_machine().await?.with_release("trixie");
    layer(&TRIXIE_RESOLVERS, &base_of(&apt, TRIXIE_BASE).await?).await
}

/// The name of the image with tools that judge a zone, which is built if it is missing.
///
/// # Errors
///
/// As [`build`].
pub async fn judges() -> anyhow::Result<String> {
    layer(&JUDGES, &tools().await?).await
}

/// Builds the image of the browser if it is missing, and returns its name.
///
/// # Errors
///
/// As [`build`].
pub async fn browser() -> anyhow::Result<String> {
    layer(&BROWSER, &base().await?).await
}

/// Removes all of them, the kept ones too.
///
/// # Errors
///
/// If Docker does not answer, or a container still uses one.
pub async fn remove() -> anyhow::Result<()> {
    // What is built on another goes before it.
    let of_base = [SYSTEMD, BROWSER.name, JUDGES.name, RESOLVERS.name, TOOLS.name];
    for name in of_base.into_iter().chain([BASE, TRIXIE_RESOLVERS.name, TRIXIE_BASE, NODE]) {
        remove_but(name, None).await?;
    }
    Ok(())
}

/// The node's image. cargo and Docker know best what of it has changed, so both are always asked.
async fn node(source: &Path) -> anyhow::Result<String> {
    let step = Step::begin("the node's image");
    let root = target(source).join("image/root");
    let mut build = command::command(path(&source.join("deploy/image-root"))?, [path(&root)?]);
    // What link-time optimisation gains is no matter here, and it takes as long as all the rest.
    build.env("PROFILE", "release");
    command::output(build).await.context("cannot build the node's static binary")?;

    let dockerfile =
        std::fs::read_to_string(source.join("deploy/Dockerfile")).context("cannot read deploy/Dockerfile")?;
    let recipe = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
    std::fs::write(recipe.path(), last_stage(&dockerfile)).context("cannot write a temporary file")?;
    let before = id(NODE).await?;
    docker_build(NODE, recipe.path(), &root, &[]).await?;
    if !before.is_empty() && before != id(NODE).await? {
        command::run("docker", ["rmi", &before]).await?;
    }
    step.end();
    Ok(NODE.to_owned())
}

/// cargo's target directory for the project at `source`.
fn target(source: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| source.join("target"), PathBuf::from)
}

/// The last stage of a Dockerfile, taking from the build's context what it took from the stage named `build`.
///
/// The context then has the paths of that stage: `/image` is the tree.
fn last_stage(dockerfile: &str) -> String {
    let begin = dockerfile.rfind("\nFROM ").map_or(0, |at| at + 1);
    dockerfile[begin..].replace("--from=build ", "").replace(" /image/", " /")
}

/// The smallest Debian system of this machine's release.
async fn base() -> anyhow::Result<String> {
    base_of(&debian::Apt::of_this_machine().await?, BASE).await
}

/// The smallest system of the release that `apt` names, as an image of this name.
async fn base_of(apt: &debian::Apt, name: &str) -> anyhow::Result<String> {
    let tag = tagged(name, &[&BASE_VERSION.to_string(), &apt.release]);
    if exists(&tag).await? {
        return Ok(tag);
    }
    let step = Step::begin(&format!("a base image of Debian {}", apt.release));
    // Not in /tmp, which may be memory, or forbid the devices that debootstrap makes.
    let directory = tempfile::tempdir_in("/var/tmp").context("cannot make a directory in /var/tmp")?;
    let (root, archive) = (directory.path().join("root"), directory.path().join("root.tar"));
    apt.bootstrap(&root).await?;
    let left_out = ["./var/lib/apt/lists/*", "./var/cache/apt/*", "./usr/share/doc/*", "./usr/share/man/*"];
    let left_out = left_out.map(|pattern| format!("--exclude={pattern}"));
    let mut pack = command::command("tar", ["--one-file-system", "--numeric-owner", "-C", path(&root)?]);
    command::output({
        pack.args(left_out).args(["-cf", path(&archive)?, "."]);
        pack
    })
    .await?;
    let change = ["--change", "ENV DEBIAN_FRONTEND=noninteractive", "--change", "CMD [\"bash\"]"];
    let mut import = command::command("docker", ["import"]);
    import.args(change).args([path(&archive)?, &tag]);
    command::output(import).await.context("cannot import the base image")?;
    remove_but(name, Some(&tag)).await?;
    step.end();
    Ok(tag)
}

/// The image of `recipe` on `base`.
async fn layer(recipe: &Recipe, base: &str) -> anyhow::Result<String> {
    let tag = tagged(recipe.name, &[recipe.dockerfile, base]);
    if exists(&tag).await? {
        return Ok(tag);
    }
    let step = Step::begin(recipe.name);
    let context = tempfile::tempdir().context("cannot make a temporary directory")?;
    let dockerfile = context.path().join("Dockerfile");
    std::fs::write(&dockerfile, recipe.dockerfile).context("cannot write a temporary file")?;
    // The mirror is reached as this machine reaches it.
    let arguments = ["--network", "host", "--build-arg", &format!("BASE={base}")];
    docker_build(&tag, &dockerfile, context.path(), &arguments).await?;
    remove_but(recipe.name, Some(&tag)).await?;
    step.end();
    Ok(tag)
}

async fn docker_build(tag: &str, dockerfile: &Path, context: &Path, more: &[&str]) -> anyhow::Result<()> {
    // Without --force-rm an interrupted build leaves a container.
    let mut build = command::command("docker", ["build", "--force-rm", "-t", tag, "-f", path(dockerfile)?]);
    build.args(more).arg(context);
    command::output(build).await.with_context(|| format!("cannot build the image {tag}"))?;
    Ok(())
}

/// `name`, with a tag that is another one for any other ingredients.
fn tagged(name: &str, ingredients: &[&str]) -> String {
    let mut hash = Sha256::new();
    for ingredient in ingredients {
        hash.update(ingredient.len().to_le_bytes());
        hash.update(ingredient);
    }
    let tag: String = hash.finalize()[..6].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{name}:{tag}")
}

/// The image of that name; empty if there is none.
async fn id(tag: &str) -> anyhow::Result<String> {
    Ok(command::run("docker", ["images", "--quiet", tag]).await?.trim().to_owned())
}

async fn exists(tag: &str) -> anyhow::Result<bool> {
    Ok(!id(tag).await?.is_empty())
}

/// Removes the images of that name but one.
async fn remove_but(name: &str, kept: Option<&str>) -> anyhow::Result<()> {
    let all = command::run("docker", ["images", "--format", "{{.Repository}}:{{.Tag}}", name]).await?;
    for old in all.lines().filter(|tag| Some(*tag) != kept) {
        command::run("docker", ["rmi", old]).await?;
    }
    Ok(())
}

/// As Docker's command line takes it.
fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("the path {} is not UTF-8", path.display()))
}

/// Something that takes its time: says so, and how long it took.
#[derive(Debug)]
struct Step {
    begun: Instant,
}

impl Step {
    fn begin(what: &str) -> Self {
        eprintln!("building {what} …");
        Self { begun: Instant::now() }
    }

    fn end(self) {
        eprintln!("  … took {:.1} s", self.begun.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_stage_is_taken_from_the_context() {
        let dockerfile =
            "ARG B\nFROM ${B} AS build\nRUN x /image\n\nFROM scratch\nCOPY --from=build /image/ /\nUSER 1\n";
        assert_eq!(last_stage(dockerfile), "FROM scratch\nCOPY / /\nUSER 1\n");
    }

    #[test]
    fn the_nodes_own_dockerfile_has_such_a_stage() {
        let stage = last_stage(include_str!("../../Dockerfile"));
        assert!(stage.starts_with("FROM scratch\n"), "{stage}");
        assert!(!stage.contains("--from") && !stage.contains("/image"), "{stage}");
    }

    #[test]
    fn another_recipe_has_another_tag() {
        let tag = tagged("name", &["a", "b"]);
        assert_eq!(tag, tagged("name", &["a", "b"]));
        assert!(tag.starts_with("name:") && tag.len() == "name:".len() + 12, "{tag}");
        assert_ne!(tag, tagged("name", &["ab", ""]));
    }
}
