"""Models as Hugging Face's libraries save them: folders, downloads, image processors, zero-shot heads."""
