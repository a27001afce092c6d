//! `plugin build`: makes a component of a plugin's folder, with the toolchain of its language.
//!
//! Guarantees: the finished component is renamed into place, because a running host may be watching the file; nothing
//! is installed; if a toolchain is missing, the error gives the commands that install it, both with the language's own
//! installer and on Debian.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use thiserror::Error;

use super::guard;
use super::project::{Language, Project};
use crate::plugin::componentize::componentize;
use crate::plugin::line_table::with_line_table;

const WASM: &str = "wasm32-unknown-unknown";
const WORLD: &str = "transform";
/// Makes clang keep equal ends of several paths apart. Otherwise all calls of `abort` in a function would be one instruction, which
/// comes from no line.
const ONE_TRAP_A_LINE: [&str; 2] = ["-mllvm", "-enable-tail-merge=false"];
const CONTRACT: &str = include_str!("../../../wit/v0.1.0/transform.wit");

/// Why a plugin can't be built.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "each message says it")]
pub enum BuildError {
    #[error("can't build a plugin in {language}: {what}; install it\n{remedy}")]
    Missing { language: Language, what: &'static str, remedy: String },
    #[error("{0} failed; its output is above")]
    Command(String),
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

/// Builds the component and returns its path. Calls `tell` with each command before it runs; the commands' output goes
/// to standard error.
pub fn build(project: &Project, tell: &mut dyn FnMut(&str)) -> Result<PathBuf, BuildError> {
    let fresh = build_aside(project, tell)?;
    Ok(take_over(project, &fresh)?)
}

/// Moves a component that [`build_aside`] made to the path of the plugin's component, which it returns.
pub fn take_over(project: &Project, fresh: &Path) -> anyhow::Result<PathBuf> {
    let component = project.component();
    fs::rename(fresh, &component).with_context(|| format!("can't move the component to {}", component.display()))?;
    Ok(component)
}

/// Builds the component and returns its path, but leaves the previous one in place: the new one has the same file name
/// in another folder.
pub fn build_aside(project: &Project, tell: &mut dyn FnMut(&str)) -> Result<PathBuf, BuildError> {
    let folder = project.folder.join("build").join("new");
    fs::create_dir_all(&folder).with_context(|| format!("can't make {}", folder.display()))?;
    let fresh = folder.join(format!("{}.wasm", project.name));
    let mut builder = Builder { project, fresh: fresh.clone(), tell };
    match project.language {
        Language::Rust => builder.rust()?,
        Language::Python => builder.python()?,
        Language::JavaScript => builder.quickjs("plugin.js", None)?,
        Language::TypeScript => builder.typescript()?,
        Language::Go => builder.go()?,
        Language::C => builder.c()?,
        Language::Cpp => builder.cpp()?,
        Language::Zig => builder.zig()?,
    }
    Ok(fresh)
}

struct Builder<'a> {
    project: &'a Project,
    /// Where the component is written until it is finished.
    fresh: PathBuf,
    tell: &'a mut dyn FnMut(&str),
}

impl Builder<'_> {
    fn rust(&mut self) -> Result<(), BuildError> {
        let target = self.project.folder.join("target");
        let mut command = if has_rust_target(&self.project.folder) {
            let mut command = Command::new("cargo");
            command.args(["build", "--release", "--lib", "--target", WASM]);
            command
        } else if let (true, Some(linker)) = (has_debian_rust(), find(&wasm_linkers())) {
            // Debian ships the standard library for WebAssembly as source only. Cargo calls building it unstable, and
            // allows it with RUSTC_BOOTSTRAP.
            let mut command = Command::new("/usr/bin/cargo");
            command.args(["build", "--release", "--lib", "--target", WASM, "-Z", "build-std=std,panic_abort"]);
            command.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
            command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
            // If rustup's cargo started this process, it set these variables, which would lead back to its toolchain.
            command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
            command
        } else {
            return Err(self.missing(
                "Rust has no target for WebAssembly",
                &[
                    ("with rustup", &format!("rustup target add {WASM}")),
                    (
                        "on Debian 12 or later, without rustup's targets, as root",
                        "apt-get install --no-install-recommends rustc-web cargo-web rust-web-src lld-19",
                    ),
                ],
            ));
        };
        command.env("CARGO_TARGET_DIR", &target);
        // For the line table, which replaces them in the component.
        command.env("CARGO_PROFILE_RELEASE_DEBUG", "line-tables-only").env("CARGO_PROFILE_RELEASE_STRIP", "none");
        self.run(command)?;
        let core = target.join(WASM).join("release").join(format!("{}.wasm", self.project.name.replace('-', "_")));
        self.componentize(&core)
    }

    fn python(&mut self) -> Result<(), BuildError> {
        let Some(componentize_py) = self.find_local(".venv/bin", "componentize-py") else {
            let venv = "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt";
            return Err(self.missing(
                "there is no componentize-py, neither in .venv nor on the PATH",
                &[
                    ("with pip, in the plugin's folder", venv),
                    ("on Debian, as root, if venv is missing", "apt-get install python3-venv"),
                ],
            ));
        };
        let module = self.write(&format!("guard/{}.py", guard::PYTHON_MODULE), guard::PYTHON)?;
        let mut command = Command::new(componentize_py);
        command.arg("--wit-path").arg(self.contract()?).args(["--world", WORLD, "componentize", guard::PYTHON_MODULE]);
        command.args(["--python-path", ".", "--python-path"]).arg(module.parent().unwrap_or(&module));
        command.arg("--output").arg(&self.fresh);
        self.run(command)
    }

    fn typescript(&mut self) -> Result<(), BuildError> {
        let Some(tsc) = self.find_local("node_modules/.bin", "tsc") else { return Err(self.missing_npm()) };
        let mut command = Command::new(tsc);
        // With the source map, the reason of a failure names the line in plugin.ts.
        command.args(["--outDir", "build", "--sourceMap"]);
        self.run(command)?;
        self.quickjs("build/plugin.js", Some("build/plugin.js.map"))
    }

    fn quickjs(&mut self, script: &str, map: Option<&str>) -> Result<(), BuildError> {
        let Some(componentize) = self.find_local("node_modules/.bin", "componentize-qjs") else {
            return Err(self.missing_npm());
        };
        let file = if map.is_some() { "plugin.ts" } else { "plugin.js" };
        let map = map.map(|map| self.read(map)).transpose()?;
        let guarded = guard::javascript(&self.read(script)?, file, map.as_deref())?;
        let guarded = self.write("guarded.js", &guarded)?;
        let mut command = Command::new(componentize);
        // Without --sync the component would need async functions of the component model; without --stub-wasi it would
        // import all of WASI.
        command
            .arg("--wit")
            .arg(self.contract()?)
            .args(["--world", WORLD, "--sync", "--stub-wasi", "--js"])
            .arg(guarded);
        command.arg("--output").arg(&self.fresh);
        self.run(command)
    }

    fn missing_npm(&self) -> BuildError {
        let (what, install) = ("the packages that package.json names aren't installed", "npm install");
        self.missing(
            what,
            &[
                ("with Node.js 20 or later and npm, in the plugin's folder", install),
                ("on Debian, as root, if they are missing", "apt-get install nodejs npm"),
            ],
        )
    }

    fn go(&mut self) -> Result<(), BuildError> {
        let Some(go) = find(&["go".into()]) else {
            return Err(self.missing(
                "there is no Go on the PATH",
                &[
                    ("from Go's own site", "Go 1.26 or later"),
                    ("on Debian 13 or later, as root", "apt-get install golang-go"),
                ],
            ));
        };
        let core = self.project.folder.join("build").join("core.wasm");
        let mut command = Command::new(go);
        command.env("GOOS", "wasip1").env("GOARCH", "wasm");
        // -checklinkname=0 lets the bindings call the Go runtime's own sbrk, from which they take memory for the host.
        command.args(["build", "-buildmode=c-shared", "-ldflags=-checklinkname=0 -s -w", "-o"]).arg(&core);
        command.arg("./bindings");
        self.run(command)?;
        self.componentize_away(&core)
    }

    fn c(&mut self) -> Result<(), BuildError> {
        let mut command = self.c_compiler("clang", "cc", has_wasi_libc)?;
        command.args(["-Os", "-g"]).args(ONE_TRAP_A_LINE);
        command.args(["-Wall", "-Wextra", "-Ibindings", "plugin.c", "json.c", "bindings/transform.c"]);
        self.link(command)
    }

    fn cpp(&mut self) -> Result<(), BuildError> {
        // The bindings are C code that a C++ compiler doesn't accept, so the C compiler compiles them.
        let mut bindings = self.c_compiler("clang", "cc", has_wasi_libcxx)?;
        bindings.args(["-Os", "-c", "bindings/transform.c", "-o", "build/transform.o"]);
        self.run(bindings)?;
        let mut command = self.c_compiler("clang++", "c++", has_wasi_libcxx)?;
        command.args(["-Os", "-g"]).args(ONE_TRAP_A_LINE);
        command.args(["-Wall", "-Wextra", "-Wno-nullability-completeness", "-std=c++20", "-fno-exceptions"]);
        command.args(["-Ibindings", "plugin.cpp", "build/transform.o"]);
        self.link(command)
    }

    /// The command that compiles C or C++ for WebAssembly: clang if it has the libraries, otherwise Zig's compiler.
    fn c_compiler(&self, clang: &str, zig: &str, has_libraries: fn() -> bool) -> Result<Command, BuildError> {
        if let Some(clang) = find(&numbered(clang)).filter(|_| has_libraries()) {
            let mut command = Command::new(clang);
            command.args(["--target=wasm32-wasi", "-mexec-model=reactor"]);
            return Ok(command);
        }
        let Some(mut command) = self.zig_compiler() else {
            let packages = match self.project.language {
                Language::C => Some("clang-19 lld-19 wasi-libc libclang-rt-19-dev-wasm32"),
                _ => None,
            };
            return Err(self.missing_compiler("there is no compiler for C and C++ with WebAssembly", packages));
        };
        command.args([zig, "-target", "wasm32-wasi", "-mexec-model=reactor"]);
        // Zig leaves `assert` out of optimized code, and with it the text that becomes the reason of a failure.
        command.arg("-UNDEBUG");
        // Zig's default stack of 16 MB would count as memory of each instance.
        command.args(["-Wl,-z,stack-size=65536"]);
        Ok(command)
    }

    fn link(&mut self, mut command: Command) -> Result<(), BuildError> {
        let core = self.project.folder.join("build").join("core.wasm");
        command.arg("bindings/transform_component_type.o").arg("-o").arg(&core);
        self.run(command)?;
        self.componentize_away(&core)
    }

    fn zig(&mut self) -> Result<(), BuildError> {
        let Some(mut command) = self.zig_compiler() else {
            return Err(self.missing_compiler("there is no Zig", None));
        };
        let Some(mut linking) = self.zig_compiler() else { return Ok(()) };
        // Zig's compiler itself takes no [`ONE_TRAP_A_LINE`], so its clang makes the code.
        command.args(["build-obj", "plugin.zig", "-I.", "-fno-emit-bin", "-femit-llvm-bc=build/plugin.bc"]);
        linking.arg("build-exe").arg("-cflags").args(ONE_TRAP_A_LINE).args(["--", "build/plugin.bc"]);
        linking.args(["bindings/transform.c", "bindings/transform_component_type.o", "-I.", "-fno-entry", "-rdynamic"]);
        // Zig's default stack of 16 MB would count as memory of each instance.
        linking.args(["--stack", "65536"]);
        for command in [&mut command, &mut linking] {
            command.args(["-lc", "-target", "wasm32-wasi", "-mexec-model=reactor", "-O", "ReleaseSafe"]);
            command.args(["--cache-dir", "build/cache"]);
        }
        let core = self.project.folder.join("build").join("core.wasm");
        linking.arg(format!("-femit-bin={}", core.display()));
        self.run(command)?;
        self.run(linking)?;
        self.componentize_away(&core)
    }

    /// The command that runs Zig, which compiles C and C++, too: the one in the plugin's folder, or else one on the
    /// PATH.
    fn zig_compiler(&self) -> Option<Command> {
        let python = self.find_local(".venv/bin", "python").filter(|python| has_ziglang(python));
        if let Some(python) = python {
            let mut command = Command::new(python);
            command.args(["-m", "ziglang"]);
            return Some(command);
        }
        find(&["zig".into()]).map(Command::new)
    }

    fn missing_compiler(&self, what: &'static str, packages: Option<&str>) -> BuildError {
        let apt = packages.map(|packages| format!("apt-get install --no-install-recommends {packages}"));
        let pip = "python3 -m venv .venv && .venv/bin/pip install ziglang==0.16.0";
        let mut remedies = vec![("with pip, in the plugin's folder (Zig's compiler)", pip)];
        if let Some(apt) = &apt {
            remedies.insert(0, ("on Debian 12 or later, as root", apt));
        }
        self.missing(what, &remedies)
    }

    /// The folder of the contract: the plugin's own folder `wit`, or else one that is written with this binary's
    /// contract.
    fn contract(&self) -> Result<PathBuf, BuildError> {
        let own = self.project.folder.join("wit");
        if own.is_dir() {
            return Ok(own);
        }
        let file = self.write("wit/transform.wit", CONTRACT)?;
        Ok(file.parent().unwrap_or(&file).to_owned())
    }

    /// Writes a file into the folder `build`.
    fn write(&self, name: &str, text: &str) -> Result<PathBuf, BuildError> {
        let path = self.project.folder.join("build").join(name);
        let parent = path.parent().unwrap_or(&path);
        fs::create_dir_all(parent).with_context(|| format!("can't make {}", parent.display()))?;
        fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))?;
        Ok(path)
    }

    fn read(&self, name: &str) -> Result<String, BuildError> {
        let path = self.project.folder.join(name);
        Ok(fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?)
    }

    /// Makes the component and removes the core module, which somebody could take for the component.
    fn componentize_away(&self, core: &Path) -> Result<(), BuildError> {
        self.componentize(core)?;
        fs::remove_file(core).with_context(|| format!("can't remove {}", core.display()))?;
        Ok(())
    }

    fn componentize(&self, core: &Path) -> Result<(), BuildError> {
        let module = fs::read(core).with_context(|| format!("can't read {}", core.display()))?;
        let module = with_line_table(&module, &self.project.folder);
        let component =
            componentize(&module).with_context(|| format!("can't make a component of {}", core.display()))?;
        fs::write(&self.fresh, component).with_context(|| format!("can't write {}", self.fresh.display()))?;
        Ok(())
    }

    /// Runs a command in the plugin's folder. Its output goes to standard error, because standard output is for the
    /// component's path.
    fn run(&mut self, mut command: Command) -> Result<(), BuildError> {
        command.current_dir(&self.project.folder).stdout(std::io::stderr());
        let line = command_line(&command);
        (self.tell)(&line);
        let status = command.status().with_context(|| format!("can't run {line}"))?;
        if status.success() { Ok(()) } else { Err(BuildError::Command(line)) }
    }

    /// A tool of the plugin's folder, or else one on the PATH.
    fn find_local(&self, folder: &str, tool: &str) -> Option<PathBuf> {
        let local = self.project.folder.join(folder).join(tool);
        if local.exists() { Some(local) } else { find(&[tool.into()]) }
    }

    fn missing(&self, what: &'static str, remedies: &[(&str, &str)]) -> BuildError {
        let remedies = remedies.iter().map(|(where_, command)| format!("  {where_}:\n    {command}"));
        let remedy = remedies.collect::<Vec<_>>().join("\n");
        BuildError::Missing { language: self.project.language, what, remedy }
    }
}

/// Whether the Rust on the PATH has a standard library for WebAssembly.
fn has_rust_target(folder: &Path) -> bool {
    let mut command = Command::new("rustc");
    let libraries = output(command.current_dir(folder).args(["--print", "target-libdir", "--target", WASM]));
    libraries.is_some_and(|path| {
        let entries = fs::read_dir(path.trim()).into_iter().flatten().flatten();
        entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
    })
}

/// Whether Debian's Rust is installed, with the source of the standard library.
fn has_debian_rust() -> bool {
    let sysroot = output(Command::new("/usr/bin/rustc").args(["--print", "sysroot"]));
    let source = |root: String| Path::new(root.trim()).join("lib/rustlib/src/rust/library/std/Cargo.toml").exists();
    Path::new("/usr/bin/cargo").exists() && sysroot.is_some_and(source)
}

fn has_wasi_libc() -> bool {
    ["/usr/include/wasm32-wasi", "/usr/share/wasi-sysroot"].iter().any(|path| Path::new(path).exists())
}

/// Whether clang finds C++'s standard library for WebAssembly.
fn has_wasi_libcxx() -> bool {
    Path::new("/usr/include/wasm32-wasi/c++/v1").exists()
}

fn has_ziglang(python: &Path) -> bool {
    output(Command::new(python).args(["-c", "import ziglang"])).is_some()
}

fn wasm_linkers() -> Vec<String> {
    numbered("wasm-ld")
}

/// The tool's name, followed by Debian's names for its versions, the newest first.
fn numbered(name: &str) -> Vec<String> {
    let versions = (16..=24).rev().map(|version| format!("{name}-{version}"));
    std::iter::once(name.to_owned()).chain(versions).collect()
}

/// The path of the first of these tools that is on the PATH.
fn find(tools: &[String]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    tools.iter().find_map(|tool| folders.iter().map(|folder| folder.join(tool)).find(|file| file.is_file()))
}

/// What a command prints on standard output; `None`: it failed.
fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

fn command_line(command: &Command) -> String {
    let words = command.get_args().map(OsStr::to_string_lossy);
    let name = command.get_program().to_string_lossy().into_owned();
    std::iter::once(name.into()).chain(words).collect::<Vec<_>>().join(" ")
}
