"""What pyproject.toml cannot give: the packages, found in two places, one of them named otherwise there; the kernels.

The kernels are optional: without a C compiler nfinspect is installed without them, and takes the slower numpy way.
"""

from setuptools import Extension, find_packages, setup

setup(
    packages=[
        *find_packages(".", include=["nfinspect", "nfinspect.*"]),
        *find_packages("store"),
        "nfinspect_samples",
    ],
    ext_modules=[
        Extension(
            "nfinspect_store._kernels",
            ["store/nfinspect_store/_kernels.c", "store/nfinspect_store/_statistics.c"],
            depends=["store/nfinspect_store/_kernels.h"],
            # No contraction: a fused multiply-add has another last digit, and not every processor has it.
            extra_compile_args=[
                "-O3",
                "-std=gnu11",
                "-ffp-contract=off",
                "-fno-math-errno",
                "-fno-trapping-math",
                "-fno-tree-loop-distribute-patterns",
                "-Wall",
                "-Wextra",
            ],
            py_limited_api=True,
            optional=True,
        )
    ],
)
