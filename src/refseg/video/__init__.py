"""Video: expressions are asked on some frames, and their masks are carried along the motion between them."""

from refseg.video.read import MAX_FRAME_PIXELS, MAX_FRAMES, Video, VideoFrame, open_video
from refseg.video.segment import Rule, SegmentedFrame, VideoMask, segment_frames, segment_video
from refseg.video.write import VideoFolder

__all__ = [
    "MAX_FRAMES",
    "MAX_FRAME_PIXELS",
    "Rule",
    "SegmentedFrame",
    "Video",
    "VideoFolder",
    "VideoFrame",
    "VideoMask",
    "open_video",
    "segment_frames",
    "segment_video",
]
