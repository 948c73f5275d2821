"""Marks in files as Audacity, spreadsheets and karaoke editors write them."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipeline.errors import AudioError, DataError
from data_pipeline.mark_formats import Mark, format_of, read_marks
from data_pipeline.marks import find_marks
from data_pipeline.recordings import Part, Recording, Track

AUDACITY = "12.500000\t34.250000\tintro\n\\\t120.000000\t4000.000000\n61.000000\t80.000000\t\n"
ULTRASTAR = """\
#TITLE:Rests
#ARTIST:Nobody
#MP3:audio.ogg
#BPM:300
#GAP:10000
: 0 20 12 Hel
: 20 20 12 lo
- 45
: 240 40 14 again
E
"""


def marks_of(text: str) -> list[tuple[float, float | None]]:
    (marked,) = read_marks(text, "x.txt")
    return [(round(mark.begin_s, 6), None if mark.end_s is None else round(mark.end_s, 6)) for mark in marked.marks]


@pytest.mark.parametrize(
    "text",
    [
        AUDACITY,
        AUDACITY.replace("\n", "\r\n"),
        AUDACITY.replace(".", ","),
        AUDACITY.replace("\tintro", ""),
    ],
    ids=["plain", "Windows line ends", "comma decimals", "no text"],
)
def test_audacity_labels(text):
    assert format_of(text) == "Audacity labels"
    assert marks_of(text) == [(12.5, 34.25), (61.0, 80.0)]


@pytest.mark.parametrize(
    "text",
    [
        "file,begin,end\na/song.mp3,12.5,34.25\na/song.mp3,0:01:01,1:20.0\n",
        "a/song.mp3,12.5,34.25\na/song.mp3,1:01,80\n",
        "file;begin;end\r\na/song.mp3;12,5;34,25\r\na/song.mp3;1:01,0;1:20\r\n",
        'File,Begin,End,comment\n"a/song.mp3",12.5,34.25,"one, two"\na/song.mp3,61,80,\n\n',
        "file,begin,end,take\na/song.mp3,12.5,34.25,1\na/song.mp3,61,80,2\n",
        "a/song.mp3\t12.5\t34.25\na/song.mp3\t61\t80\n",
        "\nfile,begin,end,note\na/song.mp3,12.5,34.25,guitar; solo\na/song.mp3,61,80,a\tb\n",
    ],
    ids=["header", "no header", "semicolons, comma decimals", "quotes, more columns", "a number", "tabs", "separators in notes"],
)
def test_csv_tables(text):
    assert format_of(text) == "CSV"
    (marked,) = read_marks(text, "marks.csv")
    assert marked.recording == "a/song.mp3"
    assert [(mark.begin_s, mark.end_s) for mark in marked.marks] == [(12.5, 34.25), (61.0, 80.0)]


def test_a_name_may_contain_a_separator():
    (marked,) = read_marks('"AC;DC.mp3",0,10\n', "marks.csv")
    assert (marked.recording, [(mark.begin_s, mark.end_s) for mark in marked.marks]) == ("AC;DC.mp3", [(0.0, 10.0)])


def test_ultrastar_notes():
    # A beat lasts 15 / 300 s: notes from 10 to 12 s and from 22 to 24 s.
    assert marks_of(ULTRASTAR) == [(0.0, 9.3), (12.7, 21.3), (24.7, None)]
    assert read_marks(ULTRASTAR, "x.txt")[0].recording == "audio.ogg"
    assert marks_of(ULTRASTAR.replace("#BPM:300", "#BPM:300,0").replace("\n", "\r\n")) == [(0.0, 9.3), (12.7, 21.3), (24.7, None)]


def test_ultrastar_notes_that_count_from_the_line_break():
    relative = ULTRASTAR.replace("#GAP", "#RELATIVE:yes\n#GAP").replace("- 45", "- 45 200").replace(": 240 40", ": 40 40")
    assert marks_of(relative) == [(0.0, 9.3), (12.7, 21.3), (24.7, None)]


def test_in_a_duet_both_voices_rest():
    duet = ULTRASTAR.replace(": 0 20", "P1\n: 0 20").replace("E\n", "P2\nF 140 20 5 and I\nE\n")
    # The second voice sings from 17 to 18 s.
    assert marks_of(duet) == [(0.0, 9.3), (12.7, 16.3), (18.7, 21.3), (24.7, None)]


def test_rests_of_a_breath_are_no_marks():
    assert marks_of(ULTRASTAR.replace(": 240 40", ": 99 40")) == [(0.0, 9.3), (17.65, None)]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("1.0\t2.0\ta\u2028b\n5.0\t4.0\tb\n", ["line 2", "5 s", "4 s"]),
        ("1.0\t2.0\ta\nfive\t6.0\tb\n", ["line 2", "five"]),
        ("-1.0\t2.0\ta\n", ["line 1", "-1"]),
        ("file,begin,end\nsong.mp3,5,4\n", ["line 2", "5 s"]),
        ("Label Track\n1.0\t2.0\ta\n", ["line 1", "Label Track"]),
        ("0:01\t0:02\ta\n1.0\t2.0\tb\n", ["line 1", "0:01", "seconds"]),
        ("recording,start,stop\nsong.mp3,5,6\nsong.mp3,7,8\n", ["line 1", "recording,start,stop"]),
        ("3.0\t3.0\t\n", ["line 1", "3 s", "Ctrl+B"]),
        ("file,begin,end\nsong.mp3,1,5,4,5\n", ["line 2", "song.mp3,1,5,4,5", "semicolons"]),
        ("song.mp3,1,5,4\n", ["line 1", "song.mp3,1,5,4", "semicolons"]),
        ("song.mp3,5,6\nsong.mp3,7\n", ["line 2", "song.mp3,7"]),
        (ULTRASTAR.replace("#BPM:300", "#BPM:fast"), ["#BPM", "fast"]),
        (ULTRASTAR.replace("#GAP:10000", "#GAP:soon"), ["#GAP", "soon"]),
        (ULTRASTAR.replace("- 45", "B 100 200"), ["line 8", "tempo"]),
        (ULTRASTAR.replace(": 240 40 14 again", ": 240"), ["line 9", ": 240"]),
        ("#TITLE:x\n#BPM:300\n#GAP:0\nE\n", ["no notes"]),
        ("Love me do\nYou know I love you\n", ["neither"]),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(text, named):
    with pytest.raises(DataError) as raised:
        read_marks(text, "labels/x.txt")
    assert "labels/x.txt" in str(raised.value)
    for each in named:
        assert each in str(raised.value)


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    """Five recordings; only their names matter here."""
    folder = tmp_path / "songs"
    for name in ("One.wav", "sub/Mr. Two.wav", "sub/Café.wav", "Three/audio.ogg", "four.flac"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def recordings(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in (".wav", ".ogg", ".flac"))


def found(path: Path, songs: Path) -> dict[str, int]:
    marks = find_marks(path, songs, recordings(songs))
    return {song.relative_to(songs).as_posix(): len(passages) for song, passages in marks.passages.items()}


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("beside", [True, False], ids=["beside the recordings", "in a folder of the same shape"])
def test_label_tracks_have_the_names_of_their_recordings(tmp_path, songs, beside):
    labels = songs if beside else tmp_path / "labels"
    write(labels / "One.txt", AUDACITY, "utf-8-sig")
    write(labels / "sub/Mr. Two.wav.txt", AUDACITY, "utf-16")
    write(labels / "sub/Cafe\u0301.txt", "0.0\t5.0\tone\n4.0\t6.0\ttwo\n8.0\t9.0\tthree\n")
    write(labels / "Three/song.txt", ULTRASTAR.replace("Nobody", "Bj\xf6rk"), "cp1252")
    write(labels / "license.txt", "All rights reserved.\n")
    write(labels / "four.flac.txt", AUDACITY, "utf-16-le")
    assert found(labels, songs) == {
        "One.wav": 2, "sub/Mr. Two.wav": 2, "sub/Café.wav": 3, "Three/audio.ogg": 3, "four.flac": 2
    }  # fmt: skip
    marks = find_marks(labels, songs, recordings(songs))
    assert marks.formats == {"Audacity labels": 4, "UltraStar notes": 1}
    assert [path.name for path in marks.left_out] == ["license.txt"]
    assert "12 passages" in marks.summary(labels, 5)
    assert "license.txt" in marks.summary(labels, 5)


def test_one_table_marks_all_recordings(tmp_path, songs):
    table = write(tmp_path / "marks.csv", "file,begin,end\nOne,1,2\nsub/Mr. Two.wav,1,2\nsub\\Mr. Two.wav,4,5\nfour.flac,0,30\n")
    assert found(table, songs) == {"One.wav": 1, "sub/Mr. Two.wav": 2, "four.flac": 1}


def test_an_ultrastar_song_whose_recording_has_another_name(songs):
    write(songs / "Three/song.txt", ULTRASTAR.replace("audio.ogg", "lost.mp3"))
    assert found(songs, songs) == {"Three/audio.ogg": 3}


def test_all_that_is_wrong_is_named_at_once(tmp_path, songs):
    labels = tmp_path / "labels"
    write(labels / "On.txt", AUDACITY)
    write(labels / "four.txt", "3.0\t2.0\t\n")
    write(labels / "sub/Mr. Two.txt", AUDACITY)
    write(labels / "sub/Mr. Two.wav.txt", AUDACITY)
    with pytest.raises(DataError) as raised:
        find_marks(labels, songs, recordings(songs))
    for named in ("On.txt", "Did you mean One.wav?", "four.txt, line 1", "both mark"):
        assert named in str(raised.value)


def test_a_recording_in_another_folder_is_suggested_with_its_folder(tmp_path, songs):
    deep = songs / "artist" / "album" / "One more.wav"
    deep.parent.mkdir(parents=True)
    (songs / "One.wav").rename(deep)
    write(tmp_path / "labels/One more.txt", AUDACITY)
    with pytest.raises(DataError, match=r"Did you mean artist/album/One more\.wav\? Name the marks like their recording"):
        find_marks(tmp_path / "labels", songs, recordings(songs))


def test_a_name_that_two_recordings_share_is_refused(songs):
    (songs / "One.flac").write_bytes(b"")
    write(songs / "One.txt", AUDACITY)
    with pytest.raises(DataError, match=r"One\.flac, One\.wav"):
        find_marks(songs, songs, recordings(songs))


def test_a_name_with_its_suffix_is_of_one_recording(songs):
    for name in ("One.wav.flac", "one.wav"):
        (songs / name).write_bytes(b"")
    write(songs / "One.wav.txt", AUDACITY)
    assert found(songs, songs) == {"One.wav": 2}


def test_files_of_labels_with_another_suffix_are_told(tmp_path, songs):
    write(tmp_path / "labels/One.txt", AUDACITY)
    write(tmp_path / "labels/four.lab", AUDACITY)
    assert "left out, files without marks: 1 (four.lab)" in find_marks(tmp_path / "labels", songs, recordings(songs)).summary(
        songs, 5
    )
    write(songs / "One.txt", AUDACITY)
    assert find_marks(songs, songs, recordings(songs)).left_out == [], "recordings"


def test_what_is_no_text_does_not_stop_the_search(songs):
    write(songs / "One.txt", AUDACITY)
    write(songs / "notes.txt", "word" * 40_000)
    os.mkfifo(songs / "pipe.txt")
    assert found(songs, songs) == {"One.wav": 2}


def test_a_folder_of_labels_that_cannot_be_read_is_named(songs):
    is_root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as name:
        labels = Path(name)
        labels.chmod(0o755)
        (labels / "sub").mkdir(mode=0)
        try:
            if is_root:  # Who may read everything.
                os.seteuid(65_534)
            with pytest.raises(DataError, match=r"sub: cannot be read \(Permission denied\)"):
                find_marks(labels, songs, [])
        finally:
            if is_root:
                os.seteuid(0)


def test_a_folder_without_marks_is_refused(songs):
    for path in (songs, songs / "nowhere"):
        with pytest.raises(DataError, match=str(path)):
            find_marks(path, songs, recordings(songs))


def marked_track(path: Path, *passages: tuple[float, float | None]) -> Track:
    recording = Recording("song", path.parent, (Part(path),))
    return Track(
        "song", "train", recording, recording, passages=tuple(Mark(*passage, "song.txt, line 1") for passage in passages)
    )


def spans(track: Track) -> list[tuple[float, float | None]]:
    return [(mark.begin_s, mark.end_s) for mark in track.passages]


def test_a_mark_beyond_the_end_is_refused(tmp_path):
    path = tmp_path / "song.wav"
    soundfile.write(path, np.zeros(80_000, np.float32), 8000)
    marked_track(path, (2.0, 10.4), (9.0, None)).check()  # Labels may stand out a little.
    for passage in ((2.0, 11.0), (10.1, 10.3)):
        with pytest.raises(AudioError, match=r"song\.txt, line 1: .* song, which lasts 10\.00 s"):
            marked_track(path, passage).check()


def test_a_stretch_has_the_marks_inside_it(tmp_path):
    path = tmp_path / "song.wav"
    soundfile.write(path, np.zeros(80_000, np.float32), 8000)
    track = marked_track(path, (1.0, 3.0), (4.0, 6.0), (8.0, None))
    assert spans(track.stretch("a", "train", (0, 40_000))) == [(1.0, 3.0), (4.0, 5.0)]
    assert spans(track.stretch("b", "validation", (40_000, None))) == [(0.0, 1.0), (3.0, None)]
    # What is not marked is no accompaniment, least of all where nothing is.
    unmarked = track.stretch("c", "train", (50_000, 60_000))
    assert unmarked.mixture is not None
    assert unmarked.accompaniment is None
    assert unmarked.passages == ()


def test_links_to_folders_above_are_followed_once(songs):
    (songs / "sub" / "above").symlink_to(songs)
    write(songs / "One.txt", AUDACITY)
    assert found(songs, songs) == {"One.wav": 2}
