"""The list of packages, which pyproject.toml cannot give: found in two places, and one that is named
otherwise there.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(".", include=["nfinspect", "nfinspect.*"]),
        *find_packages("store"),
        "nfinspect_samples",
    ]
)
