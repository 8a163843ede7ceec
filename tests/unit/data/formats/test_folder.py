"""A folder of one's own data: images, masks and a table, as CSV or as JSON lines."""

from __future__ import annotations

import json

import numpy as np
import pytest

from refseg.data.formats.folder import folder
from refseg.errors import DataError


@pytest.fixture
def csv(made, tmp_path):
    def written(text, encoding="utf-8"):
        made.write(tmp_path / "data.csv", text if isinstance(text, bytes) else text.encode(encoding))
        return folder(tmp_path)

    return written


@pytest.fixture
def lines(made, tmp_path):
    def written(*rows):
        text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
        made.write(tmp_path / "data.jsonl", text.encode())
        return folder(tmp_path)

    return written


# ── CSV ──


def test_a_record_has_the_values_of_the_row(made, csv, tmp_path):
    source = csv("image,mask,text,split,id,light\na.jpg,a-cup.png,the left cup,val,cup-1,dim\n")
    (record,) = made.read(source)
    assert (source.format, source.folder, source.files) == ("folder", tmp_path, (tmp_path / "data.csv",))
    assert vars(record) == {
        "id": "cup-1",
        "image_id": "a.jpg",
        "file": "a.jpg",
        "size": None,
        "split": "val",
        "expressions": ("the left cup",),
        "expression_ids": ("cup-1/0",),
        "parts": ({"file": "a-cup.png"},),
        "attributes": {"light": "dim"},
        "expression_attributes": (),
        "target_object": None,
        "objects": (),
        "warnings": (),
        "row": "line 2",
        "table": str(tmp_path / "data.csv"),
    }


def test_split_and_id_are_not_needed(made, csv):
    first, second = made.read(csv("text,image,mask\nthe cup,a.jpg,1.png\nthe dog,b.jpg,2.png\n"))
    assert (first.id, first.split, second.id, second.split) == ("2", "all", "3", "all")


def test_a_row_without_a_mask_has_no_target(made, csv):
    (record,) = made.read(csv("image,mask,text\na.jpg,,a unicorn\n"))
    assert record.parts == ()


@pytest.mark.parametrize(
    "text",
    [
        'image,mask,text\r\na.jpg,1.png,"the cup, left"\r\n',
        'image, mask, text\na.jpg, 1.png, "the cup, left"\n',
        '\ufeffimage,mask,text\na.jpg,1.png,"the cup, left"',
        ' image , mask,text \n\na.jpg,1.png,"the cup, left"\n\n',
    ],
)
def test_tables_of_spreadsheets_and_of_people_are_read(made, csv, text):
    (record,) = made.read(csv(text))
    assert (record.file, record.expressions) == ("a.jpg", ("the cup, left",))


def test_text_may_be_of_several_lines_and_any_script(made, csv):
    first, second = made.read(csv('image,mask,text\na.jpg,,"the ""cup""\nдля"\na.jpg,,カップ\n'))
    assert first.expressions == ('the "cup"\nдля',)
    assert (second.expressions, second.row) == (("カップ",), "line 4")


def test_masks_lie_in_masks_or_beside_the_table(made, csv):
    """Which of them is looked up when a mask is loaded."""
    source = csv("image,mask,text\na.jpg,1.png,cup\na.jpg,masks/1.png,cup\n")
    assert source.mask_folders == ("masks", "")
    assert [record.parts for record in made.read(source)] == [({"file": "1.png"},), ({"file": "masks/1.png"},)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1: columns must be image, mask, text and perhaps split, id; got none"),
        ("image,text\na,b\n", "line 1: columns must be image, mask, text"),
        ("image,mask\na,b\n", "got 'image', 'mask'"),
        ("a.jpg,1.png,cup\n", "line 1: columns must be"),
        ("image|mask|text\na|b|c\n", "got 'image|mask|text'; separate them with commas, semicolons or tabs"),
        ("sep=;\nimage,mask,text\na,b,c\n", "line 2: columns must be"),
        (
            "image;mask;text\na;b;c;d\n",
            "line 2: has not as many cells as there are columns (3); quote text with semicolons",
        ),
        ("image,Text,mask,text\n", "line 1: there are two columns of the same name"),
        ("image,mask,text,text\na,b,c,d\n", "line 1: there are two columns of the same name"),
        (
            "image,mask,text\na,b,c\na,b,the cup, left\n",
            "line 3: has not as many cells as there are columns (3); quote",
        ),
        ("image,mask,text\na,b\n", "line 2: has not as many cells as there are columns (3)"),
        ("image,mask,text\n,1.png,cup\n", "line 2: has no field 'image'"),
        ("image,mask,text\na.jpg,1.png,\n", "line 2: the expression is blank: ''"),
        ("image,mask,text\na.jpg,1.png,  \n", "line 2: the expression is blank: ''"),
        ('image,mask,text\na.jpg,1.png,"cup\n', "line 2: not a row of a table of commas: unexpected end of data"),
        ('image,mask,text\na.jpg,1.png,"cup"s\n', "line 2: not a row of a table of commas"),
        ('image,mask,text\na,b,c\na.jpg,1.png,"cup\nb,b,c\nb,b,c\n', "line 3: not a table of commas: unexpected end"),
        (
            "image,mask,text\na.jpg,1.png," + "x" * 200_000,
            "not a row of a table of commas: field larger than",
        ),
    ],
)
def test_a_broken_table_is_an_error_with_its_line(made, csv, tmp_path, text, says):
    message = made.the_error(csv(text))
    assert message.startswith(f"{tmp_path / 'data.csv'}: ")
    assert says in message


@pytest.mark.parametrize(("encoding", "line"), [("utf-16", 1), ("latin-1", 3), ("cp1252", 3)])
def test_other_encodings_are_errors_with_the_remedy(made, csv, tmp_path, encoding, line):
    source = csv("image,mask,text\na.jpg,1.png,cup\na.jpg,1.png,la tasse à café\n", encoding)
    assert made.the_error(source) == f"{tmp_path / 'data.csv'}: line {line}: not UTF-8; save the table as UTF-8"


def test_utf_16_without_a_byte_order_mark_is_an_error(made, csv):
    assert "columns must be" in made.the_error(csv("image,mask,text\na.jpg,1.png,cup\n", "utf-16-le"))


def test_names_that_lead_out_are_errors(made, csv, lines, tmp_path):
    for name in made.LEADING_OUT:
        for row in (f"{name},1.png,cup", f"a.jpg,{name},cup"):
            assert "line 2: file name " in made.the_error(csv(f"image,mask,text\n{row}\n"))
    (tmp_path / "data.csv").unlink()
    for name in (*made.LEADING_OUT, *made.NO_NAMES):
        assert "line 1: " in made.the_error(lines({"image": name, "mask": "1.png", "text": "cup"}))
        if name:
            assert "line 1: " in made.the_error(lines({"image": "a.jpg", "mask": name, "text": "cup"}))


def test_good_rows_are_read_past_bad_ones(made, csv):
    rows = ["image,mask,text,split", "a,b,c,val", "a,b", "../x,b,c,train", "../x,b,c,", 'a,b,"c"d,val', "a,b,d,val"]
    found, records = made.problems(csv("\n".join(rows)))
    assert [record.row for record in records] == ["line 2", "line 7"]
    assert [(problem.row, problem.split) for problem in found] == [
        *(("line 3", ""), ("line 4", "train"), ("line 5", "all"), ("line 6", "")),
        ("", ""),  # the note on the row without a split
    ]


@pytest.mark.parametrize(
    "rows",
    [
        ['a,b,"c', "a,b,d", "a,b,e"],  # a quote that is never closed
        ['a,b,"c', "a,b,d", 'a,b,"e"'],  # one that is closed two rows later
    ],
)
def test_a_quote_that_hides_other_rows_is_an_error(made, csv, rows):
    source = csv("\n".join(["image,mask,text", "a,b,c", *rows]))
    with pytest.raises(DataError, match="line 3: not a table"):
        made.problems(source)


def test_a_colon_in_a_file_name_is_no_drive(made, csv):
    name = "2024-05-03T12:30:11.png"
    (record,) = made.read(csv(f"image,mask,text\n{name},{name},cup\n"))
    assert record.file == name
    assert record.parts == ({"file": name},)


# ── tables as spreadsheets and people write them ──


@pytest.mark.parametrize(
    "text",
    [
        "image;mask;text;split\na.jpg;1.png;the cup, left;val\n",
        "sep=;\r\nimage;mask;text;split\r\na.jpg;1.png;the cup, left;val\r\n",
        '\ufeff"sep=;"\nimage;mask;text;split\na.jpg;1.png;the cup, left;val\n',
        "image\tmask\ttext\tsplit\na.jpg\t1.png\tthe cup, left\tval\n",
        'Image,MASK,Text,Split,,\na.jpg , 1.png,"the cup, left ",val ,,\n,,,,,\n',
        ";;;\nimage;mask;text;split\n;;;\na.jpg;1.png;the cup, left;val;\n;;;\n",
    ],
)
def test_separators_spaces_case_and_empty_rows_do_not_matter(made, csv, text):
    found, (record,) = made.problems(csv(text))
    assert (record.file, record.expressions, record.split) == ("a.jpg", ("the cup, left",), "val")
    assert record.parts == ({"file": "1.png"},)
    assert record.row == f"line {1 + text.count(chr(10), 0, text.index('a.jpg'))}"
    assert found == []


def test_absolute_paths_within_the_folder_are_names(made, csv, tmp_path):
    image, mask = tmp_path / "images" / "a.jpg", tmp_path / "masks" / "1.png"
    (record,) = made.read(csv(f"image,mask,text\n{image},{mask},cup\n"))
    assert (record.file, record.image_id, record.parts) == ("images/a.jpg", "images/a.jpg", ({"file": "masks/1.png"},))
    outside = f"image,mask,text\n{tmp_path}-other/a.jpg,,cup\n"
    assert "leads out of the data's folder; write its path within that folder" in made.the_error(csv(outside))
    assert "leads out" in made.the_error(csv(f"image,mask,text\n{tmp_path}/../a.jpg,,cup\n"))


def test_a_row_that_repeats_another_is_skipped_and_listed(made, csv):
    text = "image,mask,text,split\na.jpg,1.png,cup,val\na.jpg,1.png,mug,val\na.jpg, 1.png,cup,val\n"
    found, records = made.problems(csv(text))
    assert [record.row for record in records] == ["line 2", "line 3"]
    assert [(one.kind, one.row, one.split) for one in found] == [("repeated", "line 4", "val")]
    assert "line 2" in found[0].message


def test_splits_have_usual_names_and_what_was_assumed_is_said_once(made, csv):
    splits = ("Train", "train", "TRAINING", "validation", "Val", "Test", "testA", "kitchen", "")
    rows = "".join(f"{number}.jpg,,cup,{split}\n" for number, split in enumerate(splits))
    source = csv(f"image,mask,text,split\n{rows}")
    found, records = made.problems(source)
    assert [one.split for one in records] == ["train"] * 3 + ["val", "val", "test", "testA", "kitchen", "all"]
    assert [(one.kind, one.row) for one in found] == [("note", ""), ("note", "")]
    assert "train (written 'Train')" in found[0].message
    assert "'kitchen'" not in found[0].message
    assert "1 row without a split" in found[1].message
    assert source.in_split("val", "Validation")
    assert not source.in_split("testA", "test")


def test_splits_that_all_are_blank_need_no_note(made, csv):
    assert made.problems(csv("image,mask,text,split\na.jpg,,cup,\nb.jpg,,cup,\n"))[0] == []


def test_lossy_masks_are_noted_once(made, csv):
    found, _ = made.problems(csv("image,mask,text\na.jpg,1.jpg,cup\na.jpg,2.JPEG,mug\na.jpg,3.png,jug\n"))
    assert [one.kind for one in found] == ["note"]
    assert "2 masks have lossy compression" in found[0].message


# ── JSON lines ──


def test_a_blank_expression_leaves_the_others_of_its_row(made, lines):
    found, (record,) = made.problems(lines({"image": "a.jpg", "text": ["cup", " ", "mug"], "split": "Val", "id": 7}))
    assert record.expressions == ("cup", "mug")
    assert record.expression_ids == ("7/0", "7/2")
    assert [(one.kind, one.row, one.split) for one in found if one.kind != "note"] == [("blank", "line 1", "val")]


def test_a_line_may_have_several_expressions_for_one_target(made, lines):
    (record,) = made.read(
        lines({"image": "a.jpg", "mask": "1.png", "text": ["cup", "mug"], "id": 7, "dark": True, "x": 1.5})
    )
    assert record.expressions == ("cup", "mug")
    assert record.expression_ids == ("7/0", "7/1")
    assert record.attributes == {"dark": True}


def test_a_line_may_have_run_lengths_or_polygons(made, lines):
    mask = made.square_mask(2, 2, 9)
    records = made.read(
        lines(
            {"image": "a.jpg", "text": "cup", "rle": made.runs(mask)},
            {"image": "a.jpg", "text": "cup", "rle": made.compressed(mask)},
            {"image": "a.jpg", "text": "cup", "polygons": [made.square(2, 2, 9)]},
        )
    )
    for record in records:
        assert np.array_equal(made.painted(record).target, mask)


@pytest.mark.parametrize("region", [{}, {"mask": None}, {"mask": ""}, {"rle": None}, {"polygons": []}])
def test_a_line_without_a_region_has_no_target(made, lines, region):
    (record,) = made.read(lines({"image": "a.jpg", "text": "a unicorn"} | region))
    assert record.parts == ()


def test_polygons_may_be_points_and_one_of_several_may_be_left_out(made, lines):
    points = [[2, 2], [11, 2], [11, 11], [2, 11]]
    one, two = made.read(
        lines(
            {"image": "a.jpg", "text": "cup", "polygons": points},
            {"image": "a.jpg", "text": "cup", "polygons": [points, [1, 2, 3, 4]]},
        )
    )
    assert one.parts == two.parts == ({"polygons": [made.square(2, 2, 9)]},)
    assert (len(one.warnings), len(two.warnings)) == (0, 1)


def test_lines_are_counted_over_blank_ones(made, lines):
    row = json.dumps({"image": "a.jpg", "text": "cup"})
    other = json.dumps({"image": "a.jpg", "text": "mug"})
    assert [record.row for record in made.read(lines("", row + "\r", "  ", other))] == ["line 2", "line 4"]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("{", "not valid JSON"),
        ('{"image": "a.jpg", "te', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[1]", "expected an object with a field 'image', got a list"),
        ({"text": "a"}, "has no field 'image'"),
        ({"image": "a"}, "has no field 'text'"),
        ({"image": 3, "text": "a"}, "field 'image' must be str, got 3"),
        ({"image": "a", "text": 3}, "field 'text' must be str or list, got 3"),
        ({"image": "a", "text": ["a", 3]}, "field 'text' must be a text or a list of texts"),
        ({"image": "a", "text": [""]}, "the expression is blank"),
        ({"image": "a", "text": "b", "split": 3}, "field 'split' must be str"),
        ({"image": "a", "text": "b", "id": True}, "field 'id' must be str or int, got True"),
        ({"image": "a", "text": "b", "mask": 0}, "field 'mask' must be str, got 0"),
        ({"image": "a", "text": "b", "mask": False}, "field 'mask' must be str, got False"),
        ({"image": "a", "text": "b", "mask": "m", "polygons": [[1]]}, "has mask and polygons; give one of them"),
        ({"image": "a", "text": "b", "rle": {}}, "run lengths must be"),
        ({"image": "a", "text": "b", "rle": "abc"}, "run lengths must be"),
        ({"image": "a", "text": "b", "polygons": [1, 2, 3, 4]}, "no polygon of three points"),
        ({"image": "a", "text": "b", "polygons": [[1, 2, 3, 4]]}, "no polygon of three points"),
        ({"image": "a", "text": "b", "polygons": [[1, 2], [3, 4]]}, "no polygon of three points"),
        ({"image": "a", "text": "b", "polygons": [[1, 2, 3, 4, 5, "6"]]}, "flat list of numbers"),
        ({"image": "a", "text": []}, "field 'text' is empty"),
        ({"image": "a", "text": "b", "rle": {"size": [1, 2], "counts": [float("nan")]}}, "run lengths"),
        ({"image": "a", "text": "b", "polygons": [[1, 2, 3, 4, 5, float("nan")]]}, "not finite"),
        ({"image": "a", "text": "b", "polygons": [[1, 2, 3, 4, 5, 1e12]]}, "reaches more than"),
    ],
)
def test_a_wrong_line_is_an_error_with_its_place(made, lines, tmp_path, row, says):
    message = made.the_error(lines({"image": "a.jpg", "text": "cup"}, row))
    assert message.startswith(f"{tmp_path / 'data.jsonl'}: line 2: ")
    assert says in message


def test_anything_may_be_wrong_in_a_line(made, lines):
    survived = []
    for region in ({"mask": "1.png"}, {"rle": {"size": [1, 2], "counts": [2]}}, {"polygons": [made.square(1, 1, 4)]}):
        whole = {"image": "a.jpg", "text": ["cup"], "split": "val", "id": 1} | region
        survived += [name for name, row in made.spoilt(whole) if made.survives(lines(row))]
    assert survived


# ── the folder ──


def test_there_is_one_table(made, csv, lines, tmp_path):
    with pytest.raises(DataError, match=r"expected one table, data\.csv or data\.jsonl, and found neither"):
        folder(tmp_path)
    csv("image,mask,text\n")
    with pytest.raises(DataError, match="found both; remove one"):
        lines({"image": "a", "text": "b"})
