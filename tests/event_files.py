"""What TensorBoard event files have in them."""

import io
import struct


def summaries(folder):
  """[(step, value of a summary)] of the TensorBoard events of a folder, oldest file first.

  The files are TFRecords. A session that starts hides what older ones wrote of later steps.
  """
  from tensorboardX.proto import event_pb2

  found = []
  for file in sorted(folder.glob("events.out.tfevents.*")):
    data = io.BytesIO(file.read_bytes())
    while header := data.read(12):  # length, its checksum; the event, its checksum
      event = event_pb2.Event.FromString(data.read(struct.unpack("<Q", header[:8])[0]))
      data.read(4)
      if event.HasField("session_log") and event.session_log.status == 1:  # START: a purge
        found = [entry for entry in found if entry[0] < event.step]
      found += [(event.step, value) for value in event.summary.value]
  return found


def events(folder):
  """[(tag, step, value)] of the scalars among them."""
  return [
    (value.tag, step, value.simple_value)
    for step, value in summaries(folder)
    if value.HasField("simple_value")
  ]
