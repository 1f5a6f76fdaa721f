"""Catalogue: the robotics parts of the seeds. Figures are of the kind and size that data sheets of such parts state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Part(NamedTuple):
    """One part of the catalogue and what it costs in US dollars."""

    asset_type: str
    symbol: str
    name: str
    description: str
    price_usd: float
    specifications: Mapping[str, Any]


def _family(
    asset_type: str,
    name: str,
    description: str,
    columns: tuple[str, ...],
    common: Mapping[str, Any],
    *rows: tuple[Any, ...],
) -> list[Part]:
    """Parts that share a type, a description and some figures. A row: symbol, price, then what `columns` name."""
    return [
        Part(
            asset_type,
            symbol,
            f"{name} {symbol}",
            description,
            price,
            {**dict(zip(columns, figures, strict=True)), **common},
        )
        for symbol, price, *figures in rows
    ]


CATALOGUE: tuple[Part, ...] = (
    *_family(
        "harmonic_drive",
        "Strain wave gear unit",
        "Zero-backlash harmonic drive with a cross roller output bearing, for robot joints.",
        ("ratio", "rated_torque_nm", "peak_torque_nm", "input_speed_max_rpm", "weight_kg"),
        {"backlash_arcsec": 20, "efficiency": 0.76, "lubrication": "grease"},
        ("CSG-14-50", 742.0, 50, 7.0, 23, 8_500, 0.41),
        ("CSG-20-100", 1_184.5, 100, 52, 107, 6_500, 0.98),
        ("CSG-25-100", 1_460.0, 100, 87, 204, 5_600, 1.5),
        ("CSG-32-120", 1_985.0, 120, 178, 459, 4_800, 3.2),
    ),
    *_family(
        "planetary_gearbox",
        "Planetary gearbox",
        "Low-backlash planetary reducer with helical gears and a keyed output shaft.",
        ("ratio", "rated_torque_nm", "peak_torque_nm", "backlash_arcmin", "weight_kg"),
        {"efficiency": 0.95, "service_life_h": 20_000, "protection": "IP65"},
        ("PG-42-10", 168.0, 10, 9, 15, 8, 0.5),
        ("PG-60-16", 245.0, 16, 30, 48, 6, 1.1),
        ("PG-90-25", 398.0, 25, 120, 190, 5, 3.4),
        ("PG-115-40", 612.0, 40, 260, 410, 5, 7.2),
    ),
    *_family(
        "servo_motor",
        "Servo motor",
        "Brushless AC servo motor with a multi-turn absolute encoder and a holding brake.",
        ("power_w", "voltage_v", "rated_torque_nm", "peak_torque_nm", "rated_speed_rpm", "weight_kg"),
        {"encoder_bits": 23, "brake": True, "protection": "IP67", "protocol": "EtherCAT"},
        ("SM-100-48", 286.0, 100, 48, 0.32, 0.96, 3_000, 0.6),
        ("SM-200-48", 342.0, 200, 48, 0.64, 1.91, 3_000, 1.1),
        ("SM-400-230", 418.0, 400, 230, 1.27, 3.82, 3_000, 1.6),
        ("SM-750-230", 534.0, 750, 230, 2.39, 7.16, 3_000, 2.9),
    ),
    *_family(
        "robot_joint",
        "Robot joint module",
        "Hollow-shaft joint: motor, strain wave gear, brake, two encoders and drive in one housing.",
        ("rated_torque_nm", "peak_torque_nm", "speed_max_rpm", "hollow_shaft_mm", "weight_kg"),
        {"voltage_v": 48, "protocol": "EtherCAT", "repeatability_arcsec": 15, "protection": "IP54"},
        ("RJ-14", 1_620.0, 12, 28, 40, 12, 1.1),
        ("RJ-20", 2_150.0, 49, 82, 30, 18, 2.3),
        ("RJ-25", 2_780.0, 82, 157, 25, 22, 3.6),
        ("RJ-32", 3_640.0, 166, 333, 20, 28, 6.4),
    ),
    *_family(
        "lidar",
        "Lidar scanner",
        "Time-of-flight laser scanner for mapping and obstacle detection.",
        ("range_m", "field_of_view_deg", "angular_resolution_deg", "rate_hz", "channels", "weight_kg"),
        {"wavelength_nm": 905, "laser_class": 1, "voltage_v": 24, "protocol": "Ethernet UDP"},
        ("LD-2D-25", 1_290.0, 25, 270, 0.25, 40, 1, 0.8),
        ("LD-3D-16", 3_950.0, 100, 360, 0.2, 20, 16, 0.83),
        ("LD-3D-64", 8_900.0, 120, 360, 0.18, 20, 64, 1.3),
        ("LD-SS-128", 2_450.0, 200, 120, 0.1, 25, 128, 0.95),
    ),
    *_family(
        "camera",
        "Depth camera",
        "Active stereo camera with a global shutter and an inertial unit.",
        ("resolution", "frame_rate_hz", "depth_min_m", "depth_max_m", "field_of_view_deg", "weight_g"),
        {"shutter": "global", "protocol": "USB 3.2", "imu": True},
        ("DC-435", 389.0, "1280x720", 90, 0.28, 10, 87, 72),
        ("DC-455", 479.0, "1280x800", 90, 0.6, 20, 87, 103),
        ("DC-GS5", 1_120.0, "2448x2048", 36, 0.4, 8, 60, 240),
        ("DC-TOF2", 690.0, "640x480", 30, 0.15, 6, 108, 130),
    ),
    *_family(
        "gripper",
        "Electric parallel gripper",
        "Two-finger gripper with force and position control and exchangeable fingertips.",
        ("stroke_mm", "force_min_n", "force_max_n", "payload_kg", "weight_kg"),
        {"voltage_v": 24, "protocol": "Modbus RTU", "repeatability_mm": 0.05, "flange": "ISO 9409-1-50-4-M6"},
        ("GR-50", 2_480.0, 50, 20, 185, 4.0, 0.8),
        ("GR-85", 3_120.0, 85, 20, 235, 5.0, 0.9),
        ("GR-140", 3_480.0, 140, 10, 125, 2.5, 1.0),
        ("GR-220", 3_960.0, 220, 15, 160, 3.0, 1.3),
    ),
    *_family(
        "torque_sensor",
        "Six-axis force torque sensor",
        "Strain-gauge sensor between flange and tool, temperature compensated.",
        ("force_range_n", "torque_range_nm", "overload_percent", "rate_hz", "weight_g"),
        {"axes": 6, "accuracy_percent": 0.5, "voltage_v": 24, "protocol": "EtherCAT"},
        ("FT-60", 2_350.0, 60, 3, 500, 2_000, 120),
        ("FT-150", 2_890.0, 150, 15, 500, 2_000, 230),
        ("FT-300", 3_250.0, 300, 30, 500, 1_000, 440),
        ("FT-1000", 4_400.0, 1_000, 120, 300, 1_000, 980),
    ),
    *_family(
        "motion_controller",
        "Motion controller",
        "Real-time controller with interpolation, safe torque off and a PLC runtime.",
        ("axes", "cycle_us", "cpu_cores", "digital_inputs", "digital_outputs", "weight_kg"),
        {"protocol": "EtherCAT", "voltage_v": 24, "languages": ["IEC 61131-3", "C++", "Python"]},
        ("MC-4", 890.0, 4, 500, 2, 16, 16, 0.7),
        ("MC-8", 1_340.0, 8, 250, 4, 16, 16, 0.9),
        ("MC-16", 1_990.0, 16, 250, 4, 32, 32, 1.2),
        ("MC-32", 2_850.0, 32, 125, 8, 32, 32, 1.6),
    ),
    *_family(
        "encoder",
        "Absolute encoder",
        "Rotary encoder for motor and joint feedback.",
        ("principle", "resolution_bits", "accuracy_arcsec", "speed_max_rpm", "shaft_mm", "weight_g"),
        {"protocol": "BiSS-C", "voltage_v": 5, "protection": "IP64"},
        ("EN-M14", 74.0, "magnetic", 14, 360, 12_000, 6, 35),
        ("EN-M17", 118.0, "magnetic", 17, 120, 10_000, 10, 48),
        ("EN-O20", 246.0, "optical", 20, 40, 8_000, 10, 95),
        ("EN-O23", 395.0, "optical", 23, 20, 6_000, 12, 110),
    ),
    *_family(
        "linear_actuator",
        "Linear actuator",
        "Ball-screw axis with a servo motor and an integrated drive.",
        ("stroke_mm", "force_n", "speed_max_mm_s", "repeatability_mm", "weight_kg"),
        {"voltage_v": 48, "protocol": "CANopen", "protection": "IP54"},
        ("LA-100-300", 640.0, 100, 300, 500, 0.02, 1.9),
        ("LA-200-500", 785.0, 200, 500, 500, 0.02, 2.8),
        ("LA-400-800", 1_060.0, 400, 800, 400, 0.02, 5.1),
        ("LA-800-1500", 1_720.0, 800, 1_500, 250, 0.03, 9.6),
    ),
    *_family(
        "battery_pack",
        "Battery pack",
        "LiFePO4 pack with a battery management system, for mobile robots.",
        ("capacity_ah", "energy_wh", "discharge_max_a", "cycles", "weight_kg"),
        {"voltage_v": 48, "chemistry": "LiFePO4", "protocol": "CAN", "transport": "UN 38.3"},
        ("BP-48-10", 410.0, 10, 512, 20, 3_000, 5.2),
        ("BP-48-20", 720.0, 20, 1_024, 40, 3_000, 9.8),
        ("BP-48-40", 1_290.0, 40, 2_048, 80, 3_500, 18.9),
        ("BP-48-60", 1_840.0, 60, 3_072, 100, 3_500, 27.5),
    ),
)
"""Four parts of each of twelve types."""
