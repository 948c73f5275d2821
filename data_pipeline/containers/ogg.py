"""Ogg: its pages, the streams that follow each other (`cat a.ogg b.ogg`), and its end."""

from pathlib import Path

from data_pipeline.containers.links import Bytes, Contents, Link, truncated

_BEGINS, _ENDS = 2, 4  # Flags of the first and of the last page of a stream.


def contents(path: Path, data: Bytes) -> Contents:
    """Find the streams of an Ogg file that follow each other.  libsndfile reads the first one only.

    Raises:
        AudioError: the last page is incomplete, or does not end its stream.
    """
    begins: list[int] = []
    between = True  # Whether the pages so far begin streams that play at the same time: sound and picture.
    position, flags, complete = 0, 0, False
    while (position := data.find(b"OggS", position)) >= 0:
        head = data[position : position + 27]
        if len(head) < 27:
            complete = False
            break
        flags = head[5]
        if flags & _BEGINS:
            if not begins or not between:
                begins.append(position)
            between = True
        else:
            between = False
        end = position + 27 + head[26] + sum(data[position + 27 : position + 27 + head[26]])
        complete = end <= len(data) and len(data) >= position + 27 + head[26]
        if not complete:
            break
        position = end
    if not (complete and flags & _ENDS):
        raise truncated(path, "its last Ogg page is incomplete or does not end the stream")
    begins = begins or [0]  # The flag of the first page is damaged: libsndfile says the rest.
    return Contents(tuple(Link(*span) for span in zip(begins, [*begins[1:], len(data)], strict=True)))
