"""Builds the compiled core. Everything else about the package is in pyproject.toml."""

import os
import platform
import shutil
import tempfile
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# No -ffast-math: it deletes NaN. No contraction: the kernels equal the specification bit for bit on every instruction set.
FLAGS = [
    "-std=c11",
    "-O3",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp-simd",
    "-fvisibility=hidden",
]
TARGETS = {
    "FASTPG_NO_SIMD": "avx2,fma",
    "FASTPG_NO_AVX512": "avx512f,avx512dq,avx512bw,avx512vl,prefer-vector-width=512",
}
NO_COMPILER = """
fastpg needs a C compiler to build, and none worked here ({reason}).
Install one (Debian, Ubuntu: apt install gcc python3-dev; macOS: xcode-select --install) and run the command again."""


class Build(build_ext):
    """Asks the compiler which flags and instruction sets it knows; one that knows fewer gives a slower build, not a broken one."""

    def build_extensions(self) -> None:
        try:
            works = self.compiles("int main(void) { return 0; }", [])
        except Exception as error:  # setuptools raises a different one for each way of having no compiler
            raise SystemExit(NO_COMPILER.format(reason=error)) from None
        if not works:
            raise SystemExit(NO_COMPILER.format(reason="a program of one line does not compile"))
        unix = self.compiler.compiler_type != "msvc"
        flags = (
            [flag for flag in FLAGS if self.compiles("int main(void) { return 0; }", [flag])]
            if unix
            else ["/O2", "/std:c11", "/fp:precise"]
        )
        macros = [(name, "1") for name, target in TARGETS.items() if not self.has_target(target)]
        for extension in self.extensions:
            extension.extra_compile_args += flags
            extension.define_macros += macros
        super().build_extensions()

    def has_target(self, target: str) -> bool:
        if platform.machine().lower() not in ("x86_64", "amd64"):
            return True  # dispatch.c compiles these sets on x86-64 only
        pragma = f'#ifndef __clang__\n#pragma GCC target("{target}")\n#endif\n'
        return self.compiles(f"{pragma}float twice(float x) {{ return 2 * x; }}", ["-Werror"])

    def compiles(self, source: str, flags: list[str]) -> bool:
        folder = tempfile.mkdtemp()
        try:
            file = Path(folder, "probe.c")
            file.write_text(source)
            self.compiler.compile([str(file)], output_dir=folder, extra_postargs=flags)
            return True
        except Exception:
            if flags or "int main" not in source:
                return False
            raise
        finally:
            shutil.rmtree(folder)


core = Extension(
    "fastpg._core",
    ["fastpg/_core.pyx", "csrc/dispatch.c", "csrc/threads.c"],
    include_dirs=["csrc", numpy.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
    depends=[str(path) for path in Path("csrc").glob("*")],
)

if __name__ == "__main__":
    setup(
        ext_modules=cythonize([core], build_dir="build", quiet=not os.environ.get("VERBOSE")),
        cmdclass={"build_ext": Build},
    )
