"""Every format of labels is read back by its tool's own reader, or by ours: the same words, the same pixels."""

from __future__ import annotations

import json
import math
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools.coco import COCO

from refseg.cli.main import main
from refseg.data.catalogue import open_data
from refseg.data.convert import convert_labels
from refseg.errors import ConfigError, OutputError
from refseg.masks import decode_rle, encode_rle, iou
from refseg.writers.detections import detections
from refseg.writers.formats import FORMATS
from refseg.writers.label_studio import brush_runs
from refseg.writers.labelled import LabelledImage, Region, separated_objects, short_names

SCALE = 4
SIZE = (60 * SCALE, 80 * SCALE)
RING, SPECKS = 'the "red" ring: 50 % größer, left', "左 the specks & <dots>"


def masks():
    """A ring with a square inside and another part; and a square with holes that touch each other, or its edge."""
    y, x = np.mgrid[:60, :80]
    distance = (y - 25) ** 2 + (x - 25) ** 2
    ring = (distance < 20**2) & (distance > 10**2)
    ring[23:28, 23:28] = ring[50:56, 60:75] = True
    specks = np.zeros_like(ring)
    specks[40:50, 50:60] = True
    specks[42, 52] = specks[43, 53] = specks[46:48, 55:57] = specks[40, 50] = False
    return {text: np.kron(mask, np.ones((SCALE, SCALE), bool)) for text, mask in ((RING, ring), (SPECKS, specks))}


MASKS = masks()


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
def test_supervision_reads_coco(written, photos):
    supervision = pytest.importorskip("supervision")
    coco = written("coco-polygons")
    data = supervision.DetectionDataset.from_coco(str(photos), str(coco / "annotations.json"), force_masks=True)
    assert data.classes == [RING, SPECKS]
    found = {path: annotation for path, _, annotation in data}
    for path, annotation in found.items():
        for number, mask in zip(annotation.class_id, annotation.mask, strict=True):
            assert iou(mask, MASKS[data.classes[number]]) > 0.93, path
    assert len(found) == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_supervision_reads_yolo(written, images):
    supervision = pytest.importorskip("supervision")
    folder = written("yolo", images[:1])
    data = supervision.DetectionDataset.from_yolo(
        str(folder.parent / "images"), str(folder / "labels"), str(folder / "data.yaml"), force_masks=True
    )
    assert data.classes == [RING, SPECKS]
    annotation = next(annotation for path, _, annotation in data if path.endswith("a.png"))
    for number, mask in zip(annotation.class_id, annotation.mask, strict=True):
        assert iou(mask, MASKS[data.classes[number]]) > 0.93


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


def test_labelme_itself_reads_them(written):
    label_file = pytest.importorskip("labelme._label_file", exc_type=ImportError)
    from labelme.utils import shape_to_mask

    read = label_file.LabelFile(str(written("labelme") / "a.json"))
    for text, mask in MASKS.items():
        shapes = [shape for shape in read.shapes if shape["label"] == text]
        painted = [shape_to_mask(SIZE, shape["points"], shape["shape_type"]) for shape in shapes]
        assert iou(np.logical_or.reduce(painted), mask) > 0.93


def test_label_studio(written):
    folder = written("label-studio")
    labels = ElementTree.parse(folder / "config.xml").getroot().findall("BrushLabels/Label")
    assert [label.get("value") for label in labels] == [RING, SPECKS]
    first, second = json.loads((folder / "tasks.json").read_text())
    assert first["predictions"][0]["score"] == 0.75
    assert second["data"]["image"] == "/data/local-files/?d=images/images/b%20c.png"


def test_label_studio_reads_its_brush():
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    for mask in MASKS.values():
        decoded = brush.decode_rle(brush_runs(mask)).reshape(*SIZE, 4)
        assert np.array_equal(decoded[..., 3] > 0, mask)


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


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_datasets_reads_parquet(written, photos, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = written("parquet")
    table = datasets.Dataset.from_parquet(
        str(folder / "data" / "train-00000-of-00001.parquet"), cache_dir=str(tmp_path)
    )
    first, second = table
    assert (first["file"], first["expression"], first["score"]) == ("a.png", [RING, SPECKS], [0.75, 0.75])
    assert np.array_equal(np.asarray(first["image"]), np.asarray(Image.open(photos / "a.png")))
    for row in (first, second):
        for text, mask in zip(row["expression"], row["mask"], strict=True):
            assert np.array_equal(np.asarray(mask) > 0, MASKS[text])


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


@pytest.mark.slow
def test_a_corrected_label_is_scored(tmp_path, monkeypatch, capsys):
    """A user's path: label a photo by the bundled model, correct a label, read it back, evaluate."""
    from refseg.data.examples import __file__ as examples

    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    shutil.copy(examples.replace("__init__.py", "cats.jpg"), "photos")
    (tmp_path / "ask.csv").write_text("image,expression\ncats.jpg,the cat on the left\ncats.jpg,the cat on the right\n")
    label = ["label", "photos", "--expressions", "ask.csv", "--to", "labelme", "coco", "--out", "out"]
    assert main(label) == 0
    assert main(label) == 0  # the same again
    assert {path.name for path in (tmp_path / "out").iterdir() if path.name[0] != "."} == {
        *("coco", "contact.jpg", "data.jsonl", "formats.json", "images", "labelme", "labels.jsonl"),
        *("review.csv", "run.json", "summary.json"),
    }
    file = tmp_path / "out/labelme/cats.json"
    content = json.loads(file.read_text())
    shapes = [shape for shape in content["shapes"] if shape["label"] == "the cat on the left"]
    kept = [shape for shape in content["shapes"] if shape["label"] != "the cat on the left"]
    corrected = {**shapes[0], "points": [[0, 0], [100, 0], [100, 80], [0, 80]]}
    file.write_text(json.dumps(content | {"shapes": [corrected, *kept]}))
    capsys.readouterr()
    assert main(label) == 2
    assert "was changed" in capsys.readouterr().err
    assert main(["data", "convert", "out/labelme", "--images", "photos", "--out", "back"]) == 0
    assert main(["evaluate", "photos", "back:all", "--out", "result.json"]) == 0
    outcome = json.loads((tmp_path / "result.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "back/data.jsonl").read_text().splitlines()]
    by_text = {row["text"]: decode_rle(row["rle"]) for row in rows}
    assert by_text["the cat on the left"].sum() == 8000
    assert 0.4 < outcome["mean_iou"] < 0.6  # the other is the model's own answer
