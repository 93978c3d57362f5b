"""All reason codes and notes, each with its sentence for people.

Archives, files, slices, uploads, files of datasets and findings can have a reason code. Slices and series can have
notes. This module imports nothing, because the sandboxed decoders load it too.
"""

OF_ARCHIVES = {
    "too_many_entries": "The archive holds more entries than are accepted in one submission. Send several archives.",
    "overlap": "Entries of the archive share the same bytes, as decompression bombs do. Pack the files again.",
    "password_protected": "The archive is encrypted. Send it without a password.",
    "bad_zip64": "The archive's ZIP64 records contradict each other. Pack the files again.",
    "deflate64": (
        "The ZIP uses Deflate64, as Windows Explorer does for large files. Pack it with another program, or as TAR."
    ),
    "malformed_archive": "The archive's own structure is damaged. Copy or pack it again.",
    "truncated_archive": "The archive has no end: it was cut off, or it is not an archive. Copy or pack it again.",
    "trailing_data": "Other bytes follow after the end of the archive. Pack the files again.",
    "unsupported_archive": "This kind of archive is not read. Send ZIP, TAR, TAR.GZ, TAR.BZ2 or TAR.XZ.",
    "no_images": "The archive holds no file that could be an image. Send PNG, JPEG, TIFF, BMP, DICOM or NIfTI files.",
}
"""Reasons of a whole archive, which is refused. An archive can also be `too_large_unpacked`."""

SET_APART = {
    "localizer": "This is a localiser (scout), not a slice.",
    "not_axial": "The slice is coronal, sagittal or oblique. The model was trained on axial slices only.",
    "capture": "This is a captured screen or a report, not a slice.",
    "not_chest": "The header names a part of the body that is not the chest.",
    "bolus_tracking": "This slice was taken to time the contrast agent. It is not part of the scan.",
}
"""Reasons of a DICOM file that is CT but not an axial slice of the chest. Each is a rule of `CTBATCH_SET_APART`."""

OF_FILES = SET_APART | {
    "too_large_unpacked": "The unpacked archive or file is larger than the limit.",
    "size_mismatch": "The file is not as long as the archive says. Pack it again.",
    "corrupt": "The file's bytes are damaged. Export or copy it again.",
    "not_regular": "This is a link or a device, not a file. Send the file itself.",
    "nested": (
        "This archive or compressed file was not unpacked. An archive inside an archive is read one level deep, and"
        " only if its name ends in .zip, .tar.gz or the like. Send its contents instead."
    ),
    "unsupported": "This variant of the format is not read.",
    "empty": "The file is empty. Export or copy it again.",
    "format": "This is not a PNG, JPEG, TIFF, BMP, DICOM or NIfTI image.",
    "truncated": "The image ends too early. Export or copy it again.",
    "pixels": "The image has more pixels than are accepted, or not as many as it states.",
    "pages": "The file has more pages than are accepted. Save them in several files.",
    "malformed": "The DICOM structure is damaged, or what a CT slice must state is missing. Export it again.",
    "no_orientation": "The volume does not state how it lies in the patient. Convert it again with its orientation.",
    "volumes": "The file holds several volumes. Save each in a file of its own.",
    "not_hu": "The values of the volume are not Hounsfield units of CT. Masks, labels and scaled greys are not read.",
    "not_ct": "This DICOM object is not a CT slice.",
    "decoder_crash": "Decoding this file crashed. The file or the machine may be the cause.",
    "decoder_timeout": "Decoding this file took too long. The file or a busy machine may be the cause.",
    "decoder_memory": "Decoding this file needs more memory than is allowed.",
    "decoder_budget": (
        "The file was not decoded: other files of this upload crashed the decoder too often or used up its time."
        " Retry the job, or send the upload without those other files."
    ),
}
"""Reasons of one rejected file. The other files of its archive are processed."""

DAMAGED = {"truncated", "pixels", "malformed"}
"""The reasons of a file whose header may be whole. Such a DICOM file is missing from the series that it states."""

DECODER_FAILED = ("decoder_crash", "decoder_timeout")
"""The reasons of files whose decoder was ended. The file or the machine may be at fault."""

OF_CONFLICTS = {
    "patient_conflict": (
        "The files of this study name different patients. Correct the IDs and send the study again. If an anonymiser"
        " gave all studies one Study Instance UID, export the files with their own UIDs."
    ),
    "uid_conflict": (
        "Another file has the same SOP Instance UID but other bytes. Send only the right file. If an anonymiser gave"
        " all files one UID, export them with their own UIDs."
    ),
}
"""Reasons of files that contradict each other. All of them are rejected after every upload of the job is read."""

_OF_SLOW_DATABASE = {
    "database_slow": "The database took too long for a statement and ended it. Retry the job later.",
}

OF_QUARANTINE = _OF_SLOW_DATABASE | {
    "worker_lost": "The worker died twice while it predicted this slice alone.",
    "engine_error": "The engine failed on this slice only, or on all slices in each of ten attempts.",
    "file_lost": "A stored file that this slice needs is missing or damaged. Retry the job.",
}
"""Reasons of a slice that was read but could not be predicted."""

OF_UPLOADS = _OF_SLOW_DATABASE | {
    "file_missing": "The stored file of this upload is missing. Send it again.",
    "file_damaged": "The stored file of this upload is damaged. Send it again.",
    "no_room": (
        "An archive inside this upload needs more disk space than is free. Free space and retry the job, or send its"
        " contents instead."
    ),
    "not_listed": "The job was cancelled before all files of this upload could be listed. Retry the job.",
}
"""Reasons of an upload that was accepted but could not be unpacked."""

OF_DATASETS = {
    "no_label": (
        "Neither a folder nor the CSV states the class of the file. Add the file to the CSV, or move it to a class"
        " folder."
    ),
    "burned_in": "The header states that text is burned into the pixels. A network might learn from this text.",
}
"""Reasons of a file that is left out of a dataset. It can also have any reason of `OF_FILES`."""

SLICE_NOTES = {
    "no_preamble": "The file has no DICOM preamble or states no transfer syntax.",
    "other_vr": "The data set states the types of its elements although the file says otherwise, or the reverse.",
    "no_vr": "An element states no type.",
    "stray_delimiter": "An item or a delimiter lies outside of a sequence. It was skipped.",
    "no_sop_class": "The data set states no SOP class. It was taken from the file meta information.",
    "no_modality": "The modality is missing. The SOP class is that of CT.",
    "bad_charset": "The character set is not known, or a text does not fit it. Text may be wrong.",
    "decimal_comma": "Numbers have a decimal comma.",
    "damaged_element": "An element that does not affect the pixels is damaged. It was ignored.",
    "no_frames": "The number of frames is 0 or empty. It was taken as 1.",
    "compressed": "The pixels are compressed, but the file states that they are not.",
    "long_pixels": "The file holds more pixel data than the slice needs.",
    "trailing_bytes": "Bytes follow the data set.",
    "overlay_bits": "Bits outside of the pixel values are set, for example by an overlay. They were ignored.",
    "sign_extended": "The unused bits of negative values do not repeat the sign. The values were read as negative.",
    "no_rescale_type": "The rescale type is missing. The values were taken as Hounsfield units.",
    "rescale_type_us": "The rescale type is US. Slope and intercept are those of CT, so Hounsfield units were assumed.",
    "rescale_type_name": "The rescale type is an unusual name for Hounsfield units.",
    "odd_hu": (
        "The slice shows almost no soft tissue; or no air, and also almost no fat or very much dense bone. Its values"
        " may not be Hounsfield units."
    ),
    "turned": "The slice is stored turned or mirrored, and is shown and predicted as stored.",
    "axial_assumed": "The file does not state the orientation of the slice. The slice was taken as axial.",
    "projection": "The slice is a projection: the maximum or minimum of several slices.",
    "lossy": "The pixels were compressed with loss.",
    "long_uid": "A UID is longer than 64 characters.",
    "bad_uid": "A UID is a text instead of numbers and dots. If it has no digit, it counts as not stated.",
    "burned_in": "Text is burned into the pixels, as the header states.",
    "hu_1024": "The 16-bit grey values were read as HU + 1024.",
    "hu_32768": "The 16-bit grey values were read as HU + 32768.",
}
"""Notes on what was odd about a slice that was read."""

SERIES_NOTES = {
    "no_uid": (
        "The files do not state a Series Instance UID, or only a text. So the slices of their folder or file count as"
        " one series, which may mix several."
    ),
    "gap": "Slices are missing: the distance between some slices is much larger than usual.",
    "uneven": "The distances between slices are not equal.",
    "doubled": "Several slices are at the same position.",
    "several_scans": (
        "Slices from several folders cover the same part of the body. One Series Instance UID may stand for several"
        " scans. Export the files with their UIDs or with patient IDs. If they are one scan, put them in one folder."
    ),
    "no_position": "Some slices do not state their position. They come last, by number and name.",
    "by_location": (
        "The slices do not state usable positions. They are ordered by SliceLocation, from the feet or from the head."
    ),
    "tilted": "The slices are tilted against the axis of the body, as with a tilted gantry.",
    "mixed_orientation": "The slices have different orientations.",
}
"""Notes on what is odd about a series whose slices are predicted."""

NOTES = SLICE_NOTES | SERIES_NOTES

REASONS = OF_ARCHIVES | OF_FILES | OF_CONFLICTS | OF_QUARANTINE | OF_UPLOADS | OF_DATASETS


OF_FINDINGS = {
    "patient_unclear": (
        "The files of one patient ID state different birth dates or sexes, or one UID without a patient ID joins scans"
        " of several folders. So the ID or UID may stand for several people. Correct it and send the files again."
    ),
    "upload_failed": "A file with some of the slices was not unpacked to its end, so slices may be missing.",
    "missing": "More than a quarter of the slices, or of one series, were rejected, quarantined, cancelled or lost.",
    "odd_hu": (
        "Most slices show almost no soft tissue; or no air, and also almost no fat or very much dense bone. So their"
        " values may not be Hounsfield units. Check the rescale intercept of the files."
    ),
    "nothing_predicted": "No slice was predicted.",
    "no_lung": "No predicted slice shows enough lung.",
    "ood": "More than a quarter of the slices that show lung are out of distribution.",
    "little_lung": "The slice shows little or no lung.",
    "copy": "The same slice came more than once. It counts once.",
    "cancelled": "The job was cancelled before the slice was predicted.",
}
"""Reasons why a finding gives no verdict, or leaves a slice out. A reason of a file is possible too."""


def explain(code: str | None) -> str:
    """Return the sentence of a reason code. Return any other text with spaces in place of underscores."""
    return (REASONS | OF_FINDINGS).get(code or "", (code or "").replace("_", " "))
