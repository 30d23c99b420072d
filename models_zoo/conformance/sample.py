"""The fixed sample, which the tests run and whose children go through ONNX Runtime: models chosen for different op patterns. And those of
it that are captured with open sizes as well, which takes several times as long; and a few models whose ops most others share."""

_HF = """
    llama/LlamaForCausalLM gpt2/GPT2LMHeadModel gpt_neox/GPTNeoXForCausalLM bloom/BloomForCausalLM mpt/MptForCausalLM
    falcon/FalconForCausalLM gemma2/Gemma2ForCausalLM phi3/Phi3ForCausalLM cohere2/Cohere2ForCausalLM olmo2/Olmo2ForCausalLM
    mixtral/MixtralForCausalLM qwen3_moe/Qwen3MoeForCausalLM deepseek_v3/DeepseekV3ForCausalLM gpt_oss/GptOssForCausalLM
    granitemoe/GraniteMoeForCausalLM mamba/MambaForCausalLM mamba2/Mamba2ForCausalLM rwkv/RwkvForCausalLM
    recurrent_gemma/RecurrentGemmaForCausalLM lfm2/Lfm2ForCausalLM diffllama/DiffLlamaForCausalLM
    bert/BertForMaskedLM albert/AlbertForMaskedLM deberta-v2/DebertaV2ForMaskedLM fnet/FNetForMaskedLM mpnet/MPNetForMaskedLM
    convbert/ConvBertForMaskedLM funnel/FunnelForMaskedLM modernbert/ModernBertForMaskedLM xlnet/XLNetLMHeadModel
    t5/T5ForConditionalGeneration bart/BartForConditionalGeneration prophetnet/ProphetNetForConditionalGeneration
    whisper/WhisperForConditionalGeneration wav2vec2/Wav2Vec2ForPreTraining
    vit/ViTForImageClassification swin/SwinForImageClassification swinv2/Swinv2ForImageClassification
    levit/LevitForImageClassification convnextv2/ConvNextV2ForImageClassification segformer/SegformerForSemanticSegmentation
    clip/CLIPModel llava/LlavaForConditionalGeneration perceiver/PerceiverForMaskedLM patchtst/PatchTSTForClassification
"""
_OTHERS = """
    timm/vision_transformer/test_vit timm/convnext/test_convnext timm/xcit/xcit_nano_12_p8_224 timm/mlp_mixer/gmlp_ti16_224
    timm/resnet/test_resnet timm/efficientnet/test_efficientnet timm/levit/levit_128s
    torchvision/swin torchvision/regnet_y torchvision/shufflenet_v2
    nn/transformer_norm_first nn/transformer_decoder nn/lstm_bidirectional nn/gru
    odd/rotary_interleaved odd/qkv_interleaved odd/alibi_buffer odd/latent_attention odd/talking_heads odd/retention
    odd/hyper_connections odd/unet_concatenated odd/shared_layers odd/stacked_unbind odd/lora_merged odd/weight_norm
    odd/group_norm odd/standardised_conv odd/s4d_fft odd/moe_sorted odd/moe_gathered_weights odd/moe_groups odd/swin_windows
    odd/dit_ada_norm odd/product_keys odd/table_of_two_indices odd/slice_writes odd/autocast_islands odd/early_exits odd/custom_op
"""
_OPEN = """
    hf/llama/LlamaForCausalLM hf/gpt2/GPT2LMHeadModel hf/bloom/BloomForCausalLM hf/gemma2/Gemma2ForCausalLM hf/bert/BertForMaskedLM
    hf/t5/T5ForConditionalGeneration hf/bart/BartForConditionalGeneration hf/mixtral/MixtralForCausalLM
    hf/whisper/WhisperForConditionalGeneration hf/vit/ViTForImageClassification hf/clip/CLIPModel hf/patchtst/PatchTSTForClassification
    timm/vision_transformer/test_vit timm/convnext/test_convnext nn/transformer_norm_first nn/transformer_decoder nn/gru
    odd/rotary_interleaved odd/qkv_interleaved odd/talking_heads odd/hyper_connections odd/moe_gathered_weights odd/swin_windows
    odd/dit_ada_norm odd/early_exits
"""
_BROAD = """
    hf/t5/T5ForConditionalGeneration hf/bert/BertForMaskedLM hf/gpt2/GPT2LMHeadModel hf/mixtral/MixtralForCausalLM
    hf/deepseek_v3/DeepseekV3ForCausalLM hf/mamba2/Mamba2ForCausalLM hf/swin/SwinForImageClassification hf/sam/SamModel
    hf/detr/DetrForObjectDetection hf/clip/CLIPModel hf/gemma3/Gemma3ForConditionalGeneration
    hf/qwen2_vl/Qwen2VLForConditionalGeneration hf/perceiver/PerceiverForMaskedLM hf/whisper/WhisperForConditionalGeneration
    hf/wav2vec2/Wav2Vec2ForPreTraining timm/beit/beit_base_patch16_224 timm/byobnet/test_byobnet
"""
SAMPLE = (*(f"hf/{name}" for name in _HF.split()), *_OTHERS.split())
OPEN = tuple(_OPEN.split())
BROAD = tuple(_BROAD.split())
