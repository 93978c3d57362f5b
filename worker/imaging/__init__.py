"""From untrusted bytes to prepared slices: pure functions, array in, array out."""
