"""GeoJSON of the masks of each image, in its pixels, or in the coordinates of a GeoTIFF."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image

from refseg.errors import ConfigError
from refseg.masks import rings
from refseg.writers.labelled import LabelledImage, Region, write_json

__all__ = ["write_geojson"]

PLACED = (33550, 34264)
"""The tags of a GeoTIFF that place its pixels: ModelPixelScale and ModelTransformation (OGC 19-008r4)."""
Point: TypeAlias = tuple[float, float]
PLAIN = "urn:ogc:def:crs:OGC:1.3:CRS84"


def write_geojson(images: Sequence[LabelledImage], photos: Path, out: Path) -> None:
    """Write `IMAGE.geojson` for each image: a MultiPolygon with holes for each region, along the edges of its pixels.

    Coordinates are pixels, x to the right and y down. Those of a GeoTIFF are in its coordinate reference system, which
    `crs` names; in WGS 84, as RFC 7946 has it, if the system has no EPSG code.

    Args:
        images: what is written.
        photos: the folder of the images.
        out: a folder.

    Raises:
        ConfigError: an image is a GeoTIFF, and rasterio is not installed.
    """
    for image in images:
        place, crs = _placed(photos / image.file)
        features = [_feature(region, place) for region in image.regions]
        content: dict[str, Any] = {"type": "FeatureCollection", "image": image.file, "features": features}
        if crs is not None:
            content["crs"] = {"type": "name", "properties": {"name": crs}}
        write_json(out / f"{image.stem}.geojson", content)


def _feature(region: Region, place: Callable[[list[Point]], list[Point]]) -> dict[str, Any]:
    polygons = []
    for outer, *holes in rings(region.mask):
        loops = [loop for border in (outer, *holes) for loop in _loops(border)]
        # A border that touches itself encloses an outer loop and holes: GeoJSON wants each by itself.
        loops.sort(key=_twice_area, reverse=True)
        polygons.append([place([*loop, loop[0]]) for loop in loops])
    return {
        "type": "Feature",
        "id": region.id,
        "properties": {"expression": region.expression, "score": region.score},
        "geometry": {"type": "MultiPolygon", "coordinates": polygons},
    }


def _loops(border: Sequence[int]) -> Iterator[list[Point]]:
    """Yield the loops of a border that touch no point twice."""
    path: list[Point] = []
    for point in zip(map(float, border[::2]), map(float, border[1::2]), strict=True):
        if point in path:
            start = path.index(point)
            yield path[start:]
            del path[start:]
        path.append(point)
    yield path


def _twice_area(loop: Sequence[Point]) -> float:
    """Return twice the area of a loop, negative if it is the border of a hole."""
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise([*loop, loop[0]]))


def _placed(path: Path) -> tuple[Callable[[list[Point]], list[Point]], str | None]:
    """Return what turns points in pixels into coordinates, and the name of their system; None: they stay pixels."""
    with Image.open(path) as opened:
        tags = getattr(opened, "tag_v2", {})
        if not any(tag in tags for tag in PLACED):
            return list, None
    try:
        import rasterio
        from rasterio.warp import transform as reproject
    except ModuleNotFoundError:
        raise ConfigError(f"{path}: is a GeoTIFF, whose coordinates need rasterio: pip install 'refseg[geo]'") from None
    with rasterio.open(path) as raster:
        crs, (a, b, c, d, e, f) = raster.crs, tuple(raster.transform)[:6]
    if crs is None:
        return list, None

    def to_crs(points: list[Point]) -> list[Point]:
        return [(a * x + b * y + c, d * x + e * y + f) for x, y in points]

    epsg = crs.to_epsg()
    if epsg is not None:
        return to_crs, f"urn:ogc:def:crs:EPSG::{epsg}"

    def to_wgs84(points: list[Point]) -> list[Point]:
        xs, ys = zip(*to_crs(points), strict=True)
        longitudes, latitudes = reproject(crs, "OGC:CRS84", xs, ys)
        return list(zip(longitudes, latitudes, strict=True))

    return to_wgs84, PLAIN
