//! Compilers and package managers: cargo, make with several jobs, a Python environment.

use tests::cluster::Cluster;

use super::{hand_over, program, shell};

#[test]
fn cargo_builds_and_the_next_zone_has_nothing_left_to_build() {
    let Some(_) = program("cargo") else { return };
    let Some(cluster) = Cluster::start() else { return };
    let z1 = cluster.mount("z1");
    // cargo's own home stays where it is; the crate and its target directory are on the mount,
    // whatever the configuration there says.
    let cargo = "unset RUSTFLAGS; export CARGO_TARGET_DIR=target HOME=$REAL_HOME; \
                 cargo build --offline -q";
    shell(
        &z1,
        &format!(
            "mkdir -p crate/src && cd crate && \
             printf '[package]\\nname = \"small\"\\nversion = \"0.1.0\"\\nedition = \"2021\"\\n\
             [workspace]\\n' > Cargo.toml && \
             echo 'pub fn answer() -> u32 {{ 42 }}' > src/lib.rs && \
             echo 'fn main() {{ println!(\"{{}}\", small::answer()); }}' > src/main.rs && \
             {cargo} && test \"$(./target/debug/small)\" = 42 && \
             sed -i s/42/43/ src/lib.rs && {cargo} && test \"$(./target/debug/small)\" = 43"
        ),
    );
    hand_over(&cluster, "z1", "crate");
    let z2 = cluster.mount("z2").join("crate");
    assert_eq!(shell(&z2, "./target/debug/small"), "43\n");
    // Fingerprints are by mtime: they must be the same here. Paths differ, so only the file
    // times are compared, not what cargo would do.
    let times = "find target src -type f -printf '%P %T@ %s\\n' | sort";
    assert_eq!(shell(&z2, times), shell(&z1.join("crate"), times));
    shell(&z2, &format!("sed -i s/43/44/ src/lib.rs && {cargo}"));
    assert_eq!(shell(&z2, "./target/debug/small"), "44\n");
}

#[test]
fn make_with_jobs_builds_each_thing_once() {
    let (Some(_), Some(_)) = (program("make"), program("cc")) else { return };
    let Some(cluster) = Cluster::start() else { return };
    let z1 = cluster.mount("z1");
    shell(
        &z1,
        "mkdir -p build && cd build && for n in $(seq 20); do \
           echo \"int f$n(void) { return $n; }\" > f$n.c; done && \
         { for n in $(seq 20); do echo \"int f$n(void);\"; done; \
           echo '#include <stdio.h>'; echo 'int main(void) { int sum = 0;'; \
           for n in $(seq 20); do echo \"sum += f$n();\"; done; \
           echo 'printf(\"%d\", sum); return 0; }'; } > main.c && \
         printf 'OBJECTS = $(patsubst %%.c,%%.o,$(wildcard *.c))\\n\
         all: sum\\nsum: lib.a main.o\\n\\tcc -o $@ main.o lib.a\\n\
         lib.a: $(filter-out main.o,$(OBJECTS))\\n\\tar rcs $@ $^\\n' > Makefile && \
         make -s -j 4 && test \"$(./sum)\" = 210 && make -q",
    );
    hand_over(&cluster, "z1", "build");
    let z2 = cluster.mount("z2").join("build");
    // Times are the same everywhere: there is nothing to do.
    shell(&z2, "make -q && ./sum && touch f3.c && ! make -q && make -s -j 4 && make -q && ./sum");
}

/// A package as pip takes it without a network and without tools to build it.
const WHEEL: &str = r#"
import zipfile
wheel = zipfile.ZipFile("greeter-1.0-py3-none-any.whl", "w")
info = "greeter-1.0.dist-info/"
files = {"greeter/__init__.py": "def hello(): return 'hello'\n",
         info + "METADATA": "Metadata-Version: 2.1\nName: greeter\nVersion: 1.0\n",
         info + "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
files[info + "RECORD"] = "".join(name + ",,\n" for name in [*files, info + "RECORD"])
for name, text in files.items():
    wheel.writestr(name, text)
wheel.close()
"#;

#[test]
fn a_python_environment_takes_a_package_and_works_in_the_next_zone() {
    let Some(_) = program("python3") else { return };
    let Some(cluster) = Cluster::start() else { return };
    let z1 = cluster.mount("z1");
    shell(
        &z1,
        &format!(
            "mkdir py && cd py && python3 -m venv venv && python3 -c '{}' && \
             venv/bin/python -m pip --disable-pip-version-check install -q --no-index \
               ./greeter-1.0-py3-none-any.whl",
            WHEEL.replace('\'', "'\\''")
        ),
    );
    hand_over(&cluster, "z1", "py");
    // The environment has the path of its zone in it; only the interpreter starts it anywhere.
    let said = shell(
        &cluster.mount("z2").join("py"),
        "PYTHONPATH=$(echo venv/lib/python3*/site-packages) python3 -c \
         'import greeter, pip; print(greeter.hello())'",
    );
    assert_eq!(said, "hello\n");
}
