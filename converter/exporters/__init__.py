"""The forms a spiking network leaves in: emitted model, page, model card, interchange. One form a file."""
