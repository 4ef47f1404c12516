"""The list of images that cannot be read."""

from short_runs import make

from cnnjax import writers


def test_unreadable_images_are_listed_in_the_workdir(tmp_path, capsys):
  """Each is said once; a run that goes on keeps those that it met before."""
  listed = lambda: (tmp_path / writers.UNREADABLE).read_text()
  with make(tmp_path) as out:
    out.name_unreadable({})
    assert not (tmp_path / writers.UNREADABLE).exists()
    found = {"x/b [red].jpg": "the file is empty"}
    out.name_unreadable(found)
    assert listed() == "x/b [red].jpg\tthe file is empty\n"
    found["x/a.jpg"] = "truncated:\n3 rows"
    for _ in range(2):
      out.name_unreadable(found)
  assert listed() == "x/a.jpg\ttruncated: 3 rows\nx/b [red].jpg\tthe file is empty\n"
  printed = capsys.readouterr().out
  assert printed.count("skipped, cannot be read: x/b [red].jpg: the file is empty") == 1
  assert printed.count("skipped, cannot be read") == 2
  with make(tmp_path, start=20) as out:
    out.name_unreadable({"x/a.jpg": "truncated: 3 rows"})
    out.name_unreadable({"x/a.jpg": "truncated: 3 rows", "x/c.jpg": "no image"})
  assert [line.split("\t")[0] for line in listed().splitlines()] == [
    "x/a.jpg", "x/b [red].jpg", "x/c.jpg",
  ]  # fmt: skip
