"""Every format of labels is read back by our own reader: the same words, the same pixels.

`test_tool_readers` has the readers of the tools.
"""

from __future__ import annotations

import json
import math
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools.coco import COCO
from read_back import RING, SCALE, SIZE, SPECKS, masks_with_holes

from refseg.data.catalogue import open_data
from refseg.data.convert import convert_labels
from refseg.errors import ConfigError, OutputError
from refseg.masks import encode_rle, iou
from refseg.writers.detections import detections
from refseg.writers.formats import FORMATS
from refseg.writers.label_studio import brush_runs
from refseg.writers.labelled import LabelledImage, Region, separated_objects, short_names

MASKS = masks_with_holes()


@pytest.fixture
def photos(tmp_path):
    """A folder with two photos, one of them in a folder `images` of its own."""
    folder = tmp_path / "photos"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for file in ("a.png", "images/b c.png"):
        Image.fromarray(rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(folder / file)
    return folder


def region(file, number, expression, score=0.75):
    return Region(id=f"{file}/{number}", expression=expression, score=score, rle=encode_rle(MASKS[expression]))


@pytest.fixture
def images():
    """Both photos; the first has both expressions."""
    first = tuple(region("a.png", number, text) for number, text in enumerate(MASKS))
    second = (region("images/b c.png", 0, SPECKS, 0.25),)
    return [LabelledImage(file="a.png", regions=first), LabelledImage(file="images/b c.png", regions=second)]


@pytest.fixture
def written(images, photos, tmp_path):
    """Writes a format into a folder beside `images`, as `refseg label` does."""

    def write(name, images=images):
        out = tmp_path / "out"
        (out / name).mkdir(parents=True)
        (out / "images").symlink_to(photos, target_is_directory=True)
        FORMATS[name](images, photos, out / name)
        return out / name

    return write


WANTED = [("a.png", RING), ("a.png", SPECKS), ("images/b c.png", SPECKS)]
EXACT = ("coco", "coco-polygons", "cvat", "yolo", "labelme", "label-studio", "label-studio-polygons")


@pytest.mark.parametrize("name", EXACT)
def test_there_and_back(written, photos, tmp_path, name):
    converted = convert_labels(written(name), tmp_path / "back", images=photos)
    assert (converted.images, converted.masks, converted.problems) == (2, 3, ())
    samples = list(open_data(f"{tmp_path / 'back'}:all"))
    assert sorted((one.image_id.removeprefix("images/"), one.expressions[0].text) for one in samples) == WANTED
    for sample in samples:
        assert np.array_equal(sample.load_mask(), MASKS[sample.expressions[0].text])


def test_png_is_a_data_folder(written, photos):
    samples = list(open_data(f"{written('png')}:all", images=photos))
    assert [(one.image_id, one.expressions[0].text) for one in samples] == WANTED
    for sample in samples:
        assert np.array_equal(sample.load_mask(), MASKS[sample.expressions[0].text])


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("name", ["coco", "coco-polygons", "cvat"])
def test_pycocotools(written, name, capsys):
    folder = written(name)
    coco = COCO(folder / "annotations.json")
    capsys.readouterr()
    names = {one["id"]: one["name"] for one in coco.loadCats(coco.getCatIds())}
    if name == "cvat":
        labels = json.loads((folder / "labels.json").read_text())
        short = {label["name"]: label["attributes"][0]["default_value"] for label in labels}
        assert all(len(one) <= 64 for one in short)
        names = {id: short[one] for id, one in names.items()}
    annotations = coco.loadAnns(coco.getAnnIds())
    found = [(coco.imgs[one["image_id"]]["file_name"], names[one["category_id"]]) for one in annotations]
    assert found == WANTED
    for one in annotations:
        mask = MASKS[names[one["category_id"]]]
        assert np.array_equal(coco.annToMask(one).astype(bool), mask)
        rows, columns = np.nonzero(mask)
        assert one["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert one["area"] == mask.sum()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_detections_of_supervision(images):
    pytest.importorskip("supervision")
    found = detections(images[0])
    assert found["class_name"].tolist() == [RING, SPECKS]
    assert found.confidence.tolist() == [0.75, 0.75]
    assert all(np.array_equal(mask, MASKS[text]) for mask, text in zip(found.mask, MASKS, strict=True))
    assert found.xyxy[1].tolist() == [200, 160, 240, 200]


def test_labelme_and_how_it_paints_polygons(written):
    content = json.loads((written("labelme") / "a.json").read_text())
    assert content["imagePath"] == "../images/a.png"
    for number, text in enumerate((RING, SPECKS)):
        mask = Image.new("1", SIZE[::-1])
        for shape in content["shapes"]:
            if shape["group_id"] == number:
                assert shape["label"] == text
                # As LabelMe does (labelme.utils.shape_to_mask), with the border itself.
                ImageDraw.Draw(mask).polygon([tuple(point) for point in shape["points"]], outline=1, fill=1)
        assert iou(np.asarray(mask), MASKS[text]) > 0.93


def test_label_studio(written):
    folder = written("label-studio")
    labels = ElementTree.parse(folder / "config.xml").getroot().findall("BrushLabels/Label")
    assert [label.get("value") for label in labels] == [RING, SPECKS]
    first, second = json.loads((folder / "tasks.json").read_text())
    assert first["predictions"][0]["score"] == 0.75
    assert second["data"]["image"] == "/data/local-files/?d=images/images/b%20c.png"


def test_a_long_run_is_cut():
    from refseg.data.formats.label_studio import brush_mask

    mask = np.zeros((400, 500), bool)
    mask[300:, :] = True
    assert np.array_equal(brush_mask(brush_runs(mask), mask.shape), mask)


def test_geojson_in_pixels(written):
    shapely = pytest.importorskip("shapely")
    folder = written("geojson")
    content = json.loads((folder / "a_png.geojson").read_text())
    assert "crs" not in content
    assert (folder / "images/b c_png.geojson").is_file()
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    for feature in content["features"]:
        shape = shapely.from_geojson(json.dumps(feature["geometry"]))
        mask = MASKS[feature["properties"]["expression"]]
        assert shape.is_valid, shapely.is_valid_reason(shape)
        assert shape.area == mask.sum()
        assert np.array_equal(shapely.contains_xy(shape, x, y), mask)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("epsg", [32633, None])
def test_geojson_of_a_geotiff(photos, tmp_path, epsg):
    geopandas, rasterio = pytest.importorskip("geopandas"), pytest.importorskip("rasterio")
    crs = rasterio.crs.CRS.from_epsg(epsg) if epsg else rasterio.crs.CRS.from_string("+proj=laea +lat_0=50 +lon_0=15")
    place = rasterio.transform.from_origin(500_000 if epsg else 0, 5_500_000 if epsg else 0, 2, 2)
    with rasterio.open(
        photos / "map.tif",
        "w",
        driver="GTiff",
        height=SIZE[0],
        width=SIZE[1],
        count=3,
        dtype="uint8",
        crs=crs,
        transform=place,
    ) as file:
        file.write(np.zeros((3, *SIZE), np.uint8))
    FORMATS["geojson"]([LabelledImage(file="map.tif", regions=(region("m", 0, RING),))], photos, tmp_path)
    table = geopandas.read_file(tmp_path / "map_tif.geojson")
    assert table.expression.tolist() == [RING]
    assert table.crs.to_epsg() == (epsg or 4326)
    back = table.to_crs(crs)
    assert math.isclose(back.area[0], 4 * MASKS[RING].sum(), rel_tol=1e-6)
    left, _, _, top = back.total_bounds
    rows, columns = np.nonzero(MASKS[RING])
    assert np.allclose((left, top), place * (columns.min(), rows.min()), atol=1e-3)


def test_a_geotiff_without_rasterio_is_an_error(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rasterio", None)
    Image.new("RGB", SIZE[::-1]).save(photos / "map.tif", tiffinfo={33550: (1.0, 1.0, 0.0)})
    with pytest.raises(ConfigError, match="refseg\\[geo\\]"):
        FORMATS["geojson"]([LabelledImage(file="map.tif", regions=(region("m", 0, RING),))], photos, tmp_path)


def test_parquet_holds_the_files_of_the_photos(written, photos):
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(written("parquet")).to_pylist()
    assert [row["image"]["bytes"] for row in rows] == [(photos / row["file"]).read_bytes() for row in rows]
    assert rows[0]["score"] == [0.75, 0.75]


def test_each_part_is_an_object_on_request(images):
    parts = separated_objects(images[0]).regions
    ring = [one.mask for one in parts if one.expression == RING]
    assert [int(mask.sum()) for mask in ring if mask.sum() < 2000] == [25 * SCALE**2, 90 * SCALE**2]
    assert np.array_equal(np.logical_or.reduce(ring), MASKS[RING])
    assert len({one.id for one in parts}) == len(parts)


def test_short_names_differ():
    long = "x" * 100
    names = short_names(["a cup!", "A cup", "?", long, f"{long}y"])
    assert len({name.casefold() for name in names.values()}) == 5
    assert max(map(len, names.values())) <= 64


@pytest.mark.parametrize("name", ["yolo", "labelme"])
def test_images_whose_names_differ_in_the_ending_only(written, name):
    pair = [LabelledImage(file=file, regions=(region(file, 0, RING),)) for file in ("a.png", "a.jpg")]
    with pytest.raises(OutputError, match=r"a\.png and a\.jpg"):
        written(name, pair)
