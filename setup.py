"""The wheel carries the config files as cnnjax/configs; all else is in pyproject.toml.

An editable install finds them where they lie, in the clone.
"""

import pathlib

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
  """Copies configs/*.py of the clone into the package."""

  def run(self) -> None:
    super().run()
    if not self.editable_mode:
      folder = pathlib.Path(self.build_lib, "cnnjax", "configs")
      self.mkpath(str(folder))
      for file in sorted(pathlib.Path("configs").glob("*.py")):
        self.copy_file(str(file), str(folder / file.name))


setup(cmdclass={"build_py": BuildWithConfigs})
