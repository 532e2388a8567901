"""The forms a spiking network leaves in: emitted model, page, model card, interchange files. One form a file."""
