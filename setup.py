"""A wheel carries what a checkout has beside the package, in the same layout (`lagkit.util.home.laboratory`)."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

BUNDLED = ("nightly.yaml", "notebooks/*", "data/*", "data/sample/*", "data/testbed/model/*", "tests/baselines/*")
BUNDLED += ("benchmarks/results/*.json", "docs/results/wikihop-smollm2/*")  # what notebooks 13 and 90 read


class BuildWithLaboratory(build_py):
    """The package's modules, then copies of the files that `BUNDLED` matches; a source archive has these, too."""

    def run(self):
        super().run()
        for source in () if self.editable_mode else self._bundled():
            target = Path(self.build_lib, "lagkit", "_bundled", source)
            self.mkpath(str(target.parent))
            self.copy_file(source, str(target))

    def get_source_files(self):
        return [*super().get_source_files(), *self._bundled()]

    @staticmethod
    def _bundled():
        return [str(path) for pattern in BUNDLED for path in sorted(Path().glob(pattern)) if path.is_file()]


setup(cmdclass={"build_py": BuildWithLaboratory})
