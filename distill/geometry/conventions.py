"""The conventions of footfall, on one page. Everything else refers to this one.

Units
    Metres, seconds, radians; images are RGB in [0, 1] (float) or [0, 255] (uint8 on disk).
    Tensors carry leading batch dimensions: `[..., 3]`. Frames are `T`, people `P`, joints `J`.

Transforms
    Named `target_from_source`, 4x4 or 3x3, acting on column vectors:
    `point_world = world_from_cam @ point_cam`, so that
    `world_from_body = world_from_cam @ cam_from_body` is checked by eye.

Rotations
    Stored as unit quaternions `wxyz` with w >= 0. For q = (w, x, y, z)

        R = [[1-2(yy+zz),   2(xy-wz),   2(xz+wy)],
             [  2(xy+wz), 1-2(xx+zz),   2(yz-wx)],
             [  2(xz-wy),   2(yz+wx), 1-2(xx+yy)]]

    Networks predict 6D: the first two ROWS of R, flattened (PyTorch3D's and JOSH3R's layout).

Cameras
    OpenCV axes: x right, y down, z forward. `K` is 3x3 in pixels. The centre of the top-left
    pixel is (0.5, 0.5), as in COLMAP, so that pixel (row, col) covers [col, col+1) x [row, row+1).
    MASt3R and OpenCV put that centre at (0, 0): convert at the door (`cameras.py`).
    Depth is the z coordinate in the camera frame, not the distance along the ray.

Body
    The `body` frame has its origin AT THE PELVIS JOINT (joint 0) and the axes of the rest pose:
    x to the person's left, y up, z to the front. `cam_from_body` therefore holds the global
    orientation and the pelvis position in the camera. (SMPL's own `transl` differs from the
    pelvis by the rest offset J0(beta); adapters convert at the door.)
    Joints are the 24 of SMPL in SMPL's order; `body_rot[..., j-1]` is the rotation of joint j
    relative to its parent, for j = 1..23.

World
    Right-handed. When gravity was found (`meta["world"] == "z_up_ground"`): z up, and z = 0 is
    the ground below the first person's first stance. Otherwise (`"first_camera"`): the axes of the
    first camera. Which of the two it is, is always written beside the result.

People
    Identity maps are uint8 images: 0 is background, k+1 is person k of the clip.
"""

from __future__ import annotations

from typing import Final

SMPL_JOINTS: Final = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle",
    "right_ankle", "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head",
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
    "left_hand", "right_hand",
)  # fmt: skip
"""The 24 joints of SMPL, in order."""

SMPL_PARENTS: Final = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
"""Parent of each joint in `SMPL_JOINTS`; -1 is the root."""

KEYPOINTS: Final = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder",
    "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee",
    "right_knee", "left_ankle", "right_ankle", "left_big_toe", "left_small_toe", "left_heel",
    "right_big_toe", "right_small_toe", "right_heel",
)  # fmt: skip
"""The 23 keypoints of images: COCO's 17 and three on each foot."""

CONTACT_SITES: Final = ("left_heel", "left_toe", "right_heel", "right_toe", "left_hand", "right_hand")
"""Where a body may touch the scene; the last axis of every contact array."""

WORLDS: Final = ("z_up_ground", "first_camera")
"""What the world frame of a result may be."""
